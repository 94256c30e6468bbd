"""Runs that torchrun starts: how their processes meet and part, and which of them prints."""

from __future__ import annotations

import contextlib
import gc
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, cast

from cnn_tl.core import signals
from cnn_tl.core.errors import CnnTlError, DivergedError, ResourceError, UsageError, printable
from cnn_tl.core.processes import World, known_to_all

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

COLLECTIVE_DAYS = 7
"""How long a process waits for another one that is alive, for example while the first fits a head."""

MEETING_MINUTES = 10
"""How long a process waits for the others to start."""

PRINTING_SECONDS = 10.0
"""How long a process with an error waits for the one that prints it, which may still be loading."""

_NO_NAME = "none"
"""torchrun's name for every launch without `--rdzv-id`."""

_GONE = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "remote process")


@contextmanager
def process_group() -> Iterator[World]:
    """Connect to the other processes of this run, if torchrun has started more than one; disconnect after the block.

    Raises:
        UsageError: the environment names processes, but not where they meet.
        ResourceError: they cannot be reached; or (in the block) one of them has ended.
    """
    _refuse_incomplete_launch()
    world = _from_environment()
    if world.is_alone:
        yield world
        return
    import torch
    import torch.distributed as dist
    import torch.distributed.nn.functional  # before the group exists: its functions would keep it as their default

    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
    store = _shared_store(world)
    try:
        backend = _backend(store, world)
        timeout = timedelta(days=COLLECTIVE_DAYS)
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout)
        yield world
    except CnnTlError as error:
        if error.known_to_all is None:  # a divergence shows in the sum over all processes
            error.known_to_all = isinstance(error, DivergedError)
        raise
    except (RuntimeError, ValueError) as error:
        if not _is_about_others(error):
            raise
        reason = f"another process of this run has ended, so this one cannot go on ({_brief(error)})"
        raise known_to_all(ResourceError(reason)) from error
    finally:
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()


def _refuse_incomplete_launch() -> None:
    size, rank = os.environ.get("WORLD_SIZE", ""), os.environ.get("RANK")
    if size.isdecimal() and int(size) > 1 and rank is not None and "MASTER_ADDR" not in os.environ:
        raise UsageError(
            f"WORLD_SIZE={size} and RANK={printable(rank)} are set, but not where the processes meet (MASTER_ADDR, "
            "MASTER_PORT); start them by torchrun, or unset these variables for one process"
        )


def _shared_store(world: World) -> Store:
    """Return the store that the processes of this start share, once all of them have connected.

    Raises:
        UsageError: the environment does not say where it is.
        ResourceError: the store or another process cannot be reached.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    try:
        with signals.default_actions():  # torch waits in C code, which runs no Python handlers
            store, _, _ = next(rendezvous("env://", timeout=timedelta(minutes=MEETING_MINUTES)))
            name = _meet(store, world.rank, world.size)
    except ValueError as error:
        raise UsageError(f"the processes of this run cannot meet: {_brief(error)}; start them by torchrun") from error
    except RuntimeError as error:
        where = printable(f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT')}")
        raise ResourceError(
            f"the other processes of this run cannot be reached at {where} ({_brief(error)}); start all of them"
        ) from error
    store.set_timeout(timedelta(days=COLLECTIVE_DAYS))
    return cast("Store", PrefixStore(name, store))


def _meet(store: Store, rank: int, size: int) -> str:
    """Agree with the live processes on a name for this start.

    After a restart torchrun's store may still hold the addresses of the previous processes, and gloo would wait for
    dead ones (torch 2.15, rendezvous c10d). So each process sends the first a token, the first answers with the name
    of this start, and continues once all have read it.
    """
    if rank > 0:
        own = uuid.uuid4().hex
        store.set(f"here/{rank}", own)
        name: str = store.get(f"name/{own}").decode()
        store.set(f"seen/{name}/{rank}", "")
        return name
    name, answered, silent = uuid.uuid4().hex, set(), set(range(1, size))
    while silent:
        for other in [other for other in silent if store.check([f"here/{other}"])]:
            told = store.get(f"here/{other}").decode()
            if told not in answered:
                store.set(f"name/{told}", name)
                answered.add(told)
        silent = {other for other in silent if not store.check([f"seen/{name}/{other}"])}
        time.sleep(0.01)
    return name


def _backend(store: Store, world: World) -> str:
    """Return what carries tensors between the processes: NCCL those on GPUs, unless processes share one; else gloo.

    NCCL refuses two processes on one GPU ("Duplicate GPU detected").
    """
    import torch
    import torch.distributed as dist

    own = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) if torch.cuda.is_available() else ""
    store.set(f"gpu/{world.rank}", own)
    gpus = [store.get(f"gpu/{rank}").decode() for rank in range(world.size)]
    has_own = "" not in gpus and len(set(gpus)) == world.size
    return "cpu:gloo,cuda:nccl" if has_own and dist.is_nccl_available() else "gloo"


def release_process_group() -> None:
    """Collect what an error still references of the group: gloo's threads must not outlive the interpreter."""
    if not _from_environment().is_alone:
        gc.collect()


def runs_distributed(arguments: Sequence[str]) -> bool:
    """Return whether several processes share this command; of any other command, each process prints everything."""
    return list(arguments[:1]) == ["train"]


def prints(error: BaseException | None = None) -> bool:
    """Return whether this process prints: the first does, and any other one does for an error of its own."""
    world = _from_environment()
    if error is None or world.is_first:
        return world.is_first
    known = _known_to_all(error)
    if known is None:  # before the processes have met, all of one machine meet the same error
        return world.local_rank == 0
    return not known


def is_distributed() -> bool:
    """Return whether this process is one of several that make one run."""
    return not _from_environment().is_alone


def prints_after_waiting(error: BaseException) -> bool:
    """Wait for the process that `prints` the error: as soon as one process ends, torchrun ends all others.

    Returns:
        Whether this process should print after all: it was not ended, so the other one did not have the same error.
    """
    world = _from_environment()
    if world.is_alone or not world.launched:
        return False
    time.sleep(PRINTING_SECONDS)
    return not _known_to_all(error)


def _known_to_all(error: BaseException) -> bool | None:
    return error.known_to_all if isinstance(error, CnnTlError) else None


def _from_environment() -> World:
    """Read torchrun's environment variables (https://docs.pytorch.org/docs/stable/elastic/run.html)."""

    def number(name: str, default: int) -> int:
        text = os.environ.get(name, "")
        return int(text) if text.isdecimal() else default

    launch = os.environ.get("TORCHELASTIC_RUN_ID")
    alone = World(
        restarts=number("TORCHELASTIC_RESTART_COUNT", 0),
        launched=launch is not None,
        launch="" if launch in (None, _NO_NAME) else launch,
    )
    size = number("WORLD_SIZE", 1)
    if size <= 1 or not {"RANK", "MASTER_ADDR"} <= os.environ.keys():
        return alone
    return replace(
        alone,
        rank=number("RANK", 0),
        size=size,
        local_rank=number("LOCAL_RANK", 0),
        local_size=max(1, number("LOCAL_WORLD_SIZE", 1)),
    )


def _is_about_others(error: BaseException) -> bool:
    import torch.distributed as dist

    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(sign in text for sign in _GONE)


def _brief(error: BaseException) -> str:
    """Return gloo's or NCCL's message without the source file that it begins with; else the error's type."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rpartition("] ")[2].partition(". ")[0][:120]
