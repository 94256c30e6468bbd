"""How many processors this process may use: by affinity, and by the CPU quota of its container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self")


def usable() -> int:
    """Return how many processors this process may use, at least 1.

    That is the least of its affinity (from Python 3.13 on also PYTHON_CPU_COUNT) and of the quotas of its control
    group and of all groups around it, rounded up: `docker run --cpus 1.5` gives 2.
    """
    if hasattr(os, "process_cpu_count"):
        count = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas(_PROC))]))


def _quotas(proc: Path) -> Iterator[float]:
    """Yield the processors that each control group from ours up to the root allows, where it has a limit."""
    groups = _groups(proc)
    for kind, root, mount in _mounts(proc):
        group = groups.get(kind)
        if group is None:
            continue
        below = os.path.relpath(group, root)  # a container may see a part of the hierarchy only
        folder = mount if below.startswith("..") else Path(os.path.normpath(mount / below))
        for place in (folder, *folder.parents):
            if not place.is_relative_to(mount):
                break
            quota = _quota_v2(place) if kind == "cgroup2" else _quota_v1(place)
            if quota is not None:
                yield quota


def _groups(proc: Path) -> dict[str, str]:
    """Return our group in each hierarchy that can limit processors (cgroups(7), /proc/PID/cgroup)."""
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
    """Yield the kind, the root and the mount point of those hierarchies (proc(5), /proc/PID/mountinfo)."""
    for line in _lines(proc / "mountinfo"):
        before, _, after = line.partition(" - ")
        words, (kind, *more) = before.split(), after.split() or [""]
        of_cpu = kind == "cgroup2" or (kind == "cgroup" and more and "cpu" in more[-1].split(","))
        if of_cpu and len(words) > 4:
            yield kind, words[3], Path(words[4])


def _quota_v2(folder: Path) -> float | None:
    """Read `cpu.max`: the microseconds in each period, or "max", then the period."""
    words = " ".join(_lines(folder / "cpu.max")).split()
    return _share(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    """Read the same from two files; a quota of -1 is none."""
    words = [" ".join(_lines(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")]
    return _share(words[0], words[1])


def _share(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; none where it is absent: another system, or a group without this limit."""
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
