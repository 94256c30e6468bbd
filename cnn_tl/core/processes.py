"""The processes of one distributed run: the rank of each, and how they share work, results and errors.

Only the first process writes the run folder and prints. An error in one process is raised in all, so that none is left
waiting; the others notice a process that has died as a closed connection (`launch.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from cnn_tl.core.errors import CnnTlError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Share(Generic[T]):
    """The items of a step that one process works on.

    Attributes:
        items: consecutive ones; empty if there are fewer items than processes.
        first: the index of the first one among all.
        total: how many items all processes have together.
    """

    items: list[T]
    first: int
    total: int


@dataclass(frozen=True)
class World:
    """The processes of one run, seen from one of them. By default there is only one, and nothing communicates.

    Attributes:
        rank: the number of this process, from 0. size: the number of processes.
        local_rank, local_size: the same among those on this machine.
        restarts: how often the launcher has restarted them after one had died.
        launched: whether a launcher supervises them and passes signals on.
        launch: the launcher's name for this launch, the same after restarts and on all machines; empty: none.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    launched: bool = False
    launch: str = ""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    def share(self, items: Sequence[T]) -> Share[T]:
        """Divide the items of a step into consecutive shares, one for each process; return this process's share.

        The shares are those of `torch.tensor_split`, so one process with micro-batches of that size computes the same.
        """
        each, more = divmod(len(items), self.size)
        first, end = (number * each + min(number, more) for number in (self.rank, self.rank + 1))
        return Share(list(items[first:end]), first, len(items))

    def strided(self, items: Sequence[T]) -> list[T]:
        """Return every `size`-th item, starting at the rank: together the processes have all of them."""
        return list(items[self.rank :: self.size])

    def owns(self, sha256: str) -> bool:
        """Return whether the image with this checksum belongs to this process; all processes share the images.

        Ownership depends on the content, not on a position in a list: the list of images that the cache lacks changes
        as soon as one process writes to it.
        """
        return _number_of(sha256) % self.size == self.rank

    def owns_locally(self, sha256: str) -> bool:
        """Return the same where the processes of each machine share all images among themselves."""
        return _number_of(sha256) % self.local_size == self.local_rank

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, ordered by rank."""
        if self.is_alone:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first(self, compute: Callable[[], T]) -> T:
        """Call `compute` in the first process; return its value, or raise its error, in all of them."""
        if self.is_alone:
            return compute()
        import torch.distributed as dist

        answer: list[Any] = [None, None]
        if self.is_first:
            try:
                answer[0] = compute()
            except CnnTlError as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise known_to_all(answer[1])
        return cast(T, answer[0])

    def settle(self, error: CnnTlError | None = None) -> None:
        """Wait for all processes; if any has an error, raise the one of the lowest rank in all of them."""
        if self.is_alone:
            if error is not None:
                raise error
            return
        import torch
        import torch.distributed as dist

        failed = torch.tensor(int(error is not None))  # sending an object at each step would be slow
        dist.all_reduce(failed, op=dist.ReduceOp.MAX)
        if failed:
            errors = [(rank, other) for rank, other in enumerate(self.gather(error)) if other is not None]
            rank, other = errors[0]
            raise known_to_all(other) from (error if rank == self.rank else None)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run the block in every process and wait for all; an error in one of them is raised in all."""
        met: CnnTlError | None = None
        try:
            yield
        except CnnTlError as error:
            met = error
        self.settle(met)

    def in_step(self, items: Iterator[T], check: Callable[[], None]) -> Iterator[T]:
        """Yield the items, each once every process has one; all processes must have equally many.

        Args:
            check: called before each item. An error in it, or in `items`, is raised in all processes.
        """
        if self.is_alone:
            yield from items
            return
        while True:
            item, met = None, None
            try:
                check()
                item = next(items, None)
            except CnnTlError as error:
                met = error
            self.settle(met)
            if item is None:
                return
            yield item

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of the processes' tensors, which have the same shape and kind of device."""
        if self.is_alone:
            return value
        import torch.distributed as dist

        total = value.clone()
        dist.all_reduce(total)
        return total

    def gather_rows(self, rows: Tensor, total: int) -> Tensor:
        """Return the rows [total, ...] of all items of a step, in order; each process has those of its `share`."""
        if self.is_alone:
            return rows
        import torch
        import torch.distributed as dist

        sizes = [len(replace(self, rank=rank).share(range(total)).items) for rank in range(self.size)]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # all_gather wants equal shapes
        padded[: sizes[self.rank]] = rows[: sizes[self.rank]]
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([other[:size] for other, size in zip(gathered, sizes, strict=True)])

    def broadcast_buffers(self, *models: nn.Module) -> None:
        """Copy the first process's buffers to all: BatchNorm layers have seen other images in each process."""
        if self.is_alone:
            return
        import torch.distributed as dist

        for model in models:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def parallel(self, model: nn.Module) -> nn.Module:
        """Wrap the model so that backward averages the gradients over all processes."""
        if self.is_alone:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, broadcast_buffers=False)


def _number_of(sha256: str) -> int:
    return int(sha256[:16], 16)


ALONE = World()


def known_to_all(error: CnnTlError) -> CnnTlError:
    """Mark an error as raised in every process."""
    error.known_to_all = True
    return error
