"""The processes that make one run together: who each is, and how all agree.

Only the first of them writes the run folder and speaks. An error that one of them meets is raised in all, so that none
is left waiting; a process that is gone altogether is noticed by the others as a closed connection (`launch.py`).
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
    """What falls to one process of the items of a step.

    Attributes:
        items: consecutive ones; where there are fewer items than processes it may be none.
        first: the number of its first one among all.
        total: how many there are for all processes together.
    """

    items: list[T]
    first: int
    total: int


@dataclass(frozen=True)
class World:
    """The processes of one run, seen from one of them; by default it is alone, and every question answers itself.

    Attributes:
        rank: the number of this process, from 0. size: how many there are.
        local_rank, local_size: the same among those on this machine.
        restarts: how often a launcher has started them anew after one had died.
        launched: whether a launcher looks after them, and passes signals on.
        launch: its name for this launch, the same in all starts and on all machines; empty: it has none.
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
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    def share(self, items: Sequence[T]) -> Share[T]:
        """Cut the items of a step into as many consecutive parts as there are processes; return this one's.

        The parts are those of `torch.tensor_split`, so one process with micro-batches of that size does the same.
        """
        each, more = divmod(len(items), self.size)
        first, end = (number * each + min(number, more) for number in (self.rank, self.rank + 1))
        return Share(list(items[first:end]), first, len(items))

    def every(self, items: Sequence[T]) -> list[T]:
        """Return every `size`-th item, so that the processes have all of them between them."""
        return list(items[self.rank :: self.size])

    def falls_here(self, sha256: str) -> bool:
        """Say whether an image of this content falls to this process, where those of each machine have all of them.

        Its place in a list would not do: what is lacking in the cache looks different as soon as one of them has begun
        to write, and what is left would be cut into other parts.
        """
        return _number_of(sha256) % self.local_size == self.local_rank

    def is_mine(self, sha256: str) -> bool:
        """Say the same where all processes have the images between them, on whatever machine."""
        return _number_of(sha256) % self.size == self.rank

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks."""
        if self.is_alone:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first(self, compute: Callable[[], T]) -> T:
        """Let the first process compute something, and return it, or raise its error, in all."""
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
        """Wait for all processes; where some have met an error, raise that of the lowest rank in all."""
        if self.is_alone:
            if error is not None:
                raise error
            return
        import torch
        import torch.distributed as dist

        failed = torch.tensor(int(error is not None))  # an object for each step would be dear
        dist.all_reduce(failed, op=dist.ReduceOp.MAX)
        if failed:
            errors = [(rank, other) for rank, other in enumerate(self.gather(error)) if other is not None]
            rank, other = errors[0]
            raise known_to_all(other) from (error if rank == self.rank else None)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run the body in every process; none goes on before all have, and an error of one is raised in all."""
        met: CnnTlError | None = None
        try:
            yield
        except CnnTlError as error:
            met = error
        self.settle(met)

    def in_step(self, items: Iterator[T], check: Callable[[], None]) -> Iterator[T]:
        """Yield what `items` yields, each once every process has its own; they must yield equally many.

        Args:
            check: called before each; what it raises, and what `items` raises, is raised in all processes.
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
        """Return the sum of the processes' tensors, of one shape on one kind of device."""
        if self.is_alone:
            return value
        import torch.distributed as dist

        total = value.clone()
        dist.all_reduce(total)
        return total

    def whole(self, part: Tensor, total: int) -> Tensor:
        """Return the rows of a step of `total` items, in order, of which each process has those of its `share`."""
        if self.is_alone:
            return part
        import torch
        import torch.distributed as dist

        sizes = [len(replace(self, rank=rank).share(range(total)).items) for rank in range(self.size)]
        padded = part.new_zeros(max(sizes), *part.shape[1:])  # all that are exchanged have one shape
        padded[: sizes[self.rank]] = part[: sizes[self.rank]]
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([other[:size] for other, size in zip(parts, sizes, strict=True)])

    def same_buffers(self, *models: nn.Module) -> None:
        """Give all processes the first one's buffers: each BatchNorm has met other images in each of them."""
        if self.is_alone:
            return
        import torch.distributed as dist

        for model in models:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return the model wrapped so that backward leaves the mean of all processes' gradients in every one."""
        if self.is_alone:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, broadcast_buffers=False)


def _number_of(sha256: str) -> int:
    return int(sha256[:16], 16)


ALONE = World()

KNOWN = "_is_known_to_all"
"""The attribute of an error that says whether every process has met it, or has been told of it."""


def known_to_all(error: CnnTlError) -> CnnTlError:
    """Mark an error as one that is raised in every process."""
    vars(error)[KNOWN] = True
    return error
