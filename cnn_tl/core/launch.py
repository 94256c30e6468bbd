"""How the processes of one run find and leave each other, where torchrun starts them, and which of them speaks."""

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
from cnn_tl.core.processes import KNOWN, World, known_to_all

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

PATIENCE_DAYS = 7
"""How long a process waits for another one that is alive: while the first fits a head, say."""

MEETING_MINUTES = 10
"""How long a process waits for the others to be there at all."""

SPEAKING_SECONDS = 10.0
"""How long a process that has met an error waits for the one that says so: it may still be loading."""

_NO_NAME = "none"
"""What torchrun calls every launch that was given no `--rdzv-id`."""

_GONE = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "remote process")


@contextmanager
def joined() -> Iterator[World]:
    """Find the other processes of this run, where torchrun has started more than one, and let go of them in the end.

    Raises:
        UsageError: the environment names processes, but not where they meet.
        ResourceError: they cannot be reached; or (in the body) one of them has ended.
    """
    _refuse_half_a_launch()
    world = _from_environment()
    if world.is_alone:
        yield world
        return
    import torch
    import torch.distributed as dist
    import torch.distributed.nn.functional  # else DDP does, when the group is there: its functions' default for ever

    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    store = _meeting_place(world)
    try:
        timeout = timedelta(days=PATIENCE_DAYS)
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout)
        yield world
    except CnnTlError as error:
        # what has diverged has done so in the sum over all processes
        vars(error).setdefault(KNOWN, isinstance(error, DivergedError))
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


def _refuse_half_a_launch() -> None:
    size, rank = os.environ.get("WORLD_SIZE", ""), os.environ.get("RANK")
    if size.isdecimal() and int(size) > 1 and rank is not None and "MASTER_ADDR" not in os.environ:
        raise UsageError(
            f"WORLD_SIZE={size} and RANK={printable(rank)} are set, but not where the processes meet (MASTER_ADDR, "
            "MASTER_PORT); start them by torchrun, or unset these variables for one process"
        )


def _meeting_place(world: World) -> Store:
    """Return the store that the processes of this start share, once all are there.

    Raises:
        UsageError: the environment does not say where it is.
        ResourceError: it, or one of the others, cannot be reached.
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
    store.set_timeout(timedelta(days=PATIENCE_DAYS))
    return cast("Store", PrefixStore(name, store))


def _meet(store: Store, rank: int, size: int) -> str:
    """Agree with the processes that are alive on a name for this start.

    After a restart torchrun's store may still hold where the processes before it listened, and gloo would wait for
    the dead (torch 2.15, rendezvous c10d). So each tells the first who it is, the first answers by the name of this
    start, and goes on when each has read it.
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


def let_go() -> None:
    """Free what an error has kept of the group: gloo's threads may not outlive the interpreter, which they use."""
    if not _from_environment().is_alone:
        gc.collect()


def concerns(arguments: Sequence[str]) -> bool:
    """Say whether a command line is for several processes; of any other each of them says what it has to say."""
    return list(arguments[:1]) == ["train"]


def speaks(error: BaseException | None = None) -> bool:
    """Say whether this process prints: the first does, and any other that has met an error which is only its own."""
    world = _from_environment()
    if error is None or world.is_first:
        return world.is_first
    known = vars(error).get(KNOWN)
    if known is None:  # before the processes have met: all of a machine make the same mistake
        return world.local_rank == 0
    return not known


def is_shared() -> bool:
    """Say whether this process is one of several that make a run together."""
    return not _from_environment().is_alone


def leave_the_word(error: BaseException) -> bool:
    """Let the process that `speaks` do so, and stay alive for it: as soon as one has ended, torchrun ends all others.

    Returns:
        Whether this one should speak after all: it has not been ended, so the mistake was not the other's too.
    """
    world = _from_environment()
    if world.is_alone or not world.launched:
        return False
    time.sleep(SPEAKING_SECONDS)
    return not vars(error).get(KNOWN, False)


def _from_environment() -> World:
    """Return what torchrun says in the environment (https://docs.pytorch.org/docs/stable/elastic/run.html)."""

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
    """Return the last words of what gloo or NCCL says, the first ones name a file of theirs; else the error's kind."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rpartition("] ")[2].partition(". ")[0][:120]
