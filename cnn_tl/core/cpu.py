"""CPU cores and memory that this process may use, and the process-wide settings that make a CPU run fast."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PROC = Path("/proc/self")
_MEMINFO = Path("/proc/meminfo")


def default_workers() -> int:
    """Return how many threads read images by default: one for each usable core, at most 64."""
    return min(usable(), 64)


def usable() -> int:
    """Return how many CPU cores this process may use, at least 1.

    It is the minimum of the affinity (from Python 3.13 on also PYTHON_CPU_COUNT) and of the CPU quotas of its control
    group and all parent groups, rounded up: `docker run --cpus 1.5` gives 2.
    """
    if hasattr(os, "process_cpu_count"):
        count = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas(_PROC))]))


def free_memory() -> int | None:
    """Return how many bytes are free for this process and others; None if the system does not say."""
    try:
        lines = _MEMINFO.read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


@cache
def processor() -> str:
    """Return the name of the CPU."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system; does nothing without glibc.

    Each training step allocates and frees the same tens of megabytes. By default glibc maps and unmaps every such
    block, and the kernel zeroes its pages each time: a third of the training time on a CPU. The setting is
    process-wide, so programs call this; libraries do not.
    """
    import ctypes
    import platform

    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 * 2**20)


def release_freed_memory() -> None:
    """Return the memory that `keep_freed_memory` has kept, between stages that allocate blocks of other sizes."""
    import ctypes
    import platform

    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user has chosen otherwise.

    By default they spin, which is slightly faster on an idle machine. But when other threads need a core (the ones
    that decode images do), the spinning threads keep it from the thread that they are waiting for: beside two busy
    processes, embedding ran 2.4 to 5 times faster with sleeping threads. Call this before torch is loaded, from a
    program, not from a library.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _quotas(proc: Path) -> Iterator[float]:
    """Yield the CPU limit, in cores, of each control group from ours up to the root that has one."""
    groups = _groups(proc)
    for kind, root, mount in _mounts(proc):
        group = groups.get(kind)
        if group is None:
            continue
        below = os.path.relpath(group, root)  # a container may see only part of the hierarchy
        folder = mount if below.startswith("..") else Path(os.path.normpath(mount / below))
        for place in (folder, *folder.parents):
            if not place.is_relative_to(mount):
                break
            quota = _quota_v2(place) if kind == "cgroup2" else _quota_v1(place)
            if quota is not None:
                yield quota


def _groups(proc: Path) -> dict[str, str]:
    """Return this process's group in each hierarchy that can limit CPU time (cgroups(7), /proc/PID/cgroup)."""
    groups = {}
    for line in _lines(proc / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            groups["cgroup2"] = group
        elif "cpu" in controllers.split(","):
            groups["cgroup"] = group
    return groups


def _mounts(proc: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield the kind, root and mount point of these hierarchies (proc(5), /proc/PID/mountinfo)."""
    for line in _lines(proc / "mountinfo"):
        before, _, after = line.partition(" - ")
        words, (kind, *more) = before.split(), after.split() or [""]
        of_cpu = kind == "cgroup2" or (kind == "cgroup" and more and "cpu" in more[-1].split(","))
        if of_cpu and len(words) > 4:
            yield kind, words[3], Path(words[4])


def _quota_v2(folder: Path) -> float | None:
    """Read `cpu.max`: the quota in microseconds, or "max", then the period."""
    words = " ".join(_lines(folder / "cpu.max")).split()
    return _share(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    """Read the quota and the period from two files; a quota of -1 means no limit."""
    words = [" ".join(_lines(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")]
    return _share(words[0], words[1])


def _share(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; none if it is absent, as on other systems or in a group without this limit."""
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
