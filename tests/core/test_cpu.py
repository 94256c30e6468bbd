"""How many processors a container may use, by made-up files of the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cnn_tl.core import cpu


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 processors; the test lays its control groups under the folder that is returned."""
    monkeypatch.setattr(cpu, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "process_cpu_count", lambda: 16, raising=False)
    (tmp_path / "proc").mkdir()
    return tmp_path


def v2(machine: Path, group: str, limits: dict[str, str], root: str = "/") -> None:
    mount = machine / "fs"
    (machine / "proc" / "cgroup").write_text(f"0::{group}\n")
    line = f"30 23 0:26 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    (machine / "proc" / "mountinfo").write_text("22 1 0:20 / /proc rw - proc proc rw\n" + line)
    for name, text in limits.items():
        (mount / name).mkdir(parents=True, exist_ok=True)
        (mount / name / "cpu.max").write_text(f"{text}\n")


def v1(machine: Path, group: str, limits: dict[str, tuple[int, int]], root: str = "/") -> None:
    mount = machine / "fs" / "cpu,cpuacct"
    (machine / "proc" / "cgroup").write_text(f"5:memory:/m\n4:cpu,cpuacct:{group}\n0::/unified\n")
    line = f"33 25 0:28 {root} {mount} rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
    other = f"34 25 0:29 / {machine}/fs/memory rw - cgroup cgroup rw,memory\n"
    (machine / "proc" / "mountinfo").write_text(other + line)
    for name, (quota, period) in limits.items():
        (mount / name).mkdir(parents=True, exist_ok=True)
        (mount / name / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (mount / name / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(
    ("group", "limits", "expected"),
    [
        ("/", {".": "400000 100000"}, 4),
        ("/", {".": "150000 100000"}, 2),
        ("/", {".": "20000 100000"}, 1),
        ("/", {".": "max 100000"}, 16),
        ("/", {".": "9900000 100000"}, 16),
        ("/", {}, 16),
        ("/a/b", {".": "max 100000", "a": "300000 100000", "a/b": "max 100000"}, 3),
        ("/a/b", {"a": "800000 100000", "a/b": "50000 10000"}, 5),
        ("/a/b", {"a": "200000 100000", "a/b": "600000 100000", "a/other": "100000 100000"}, 2),
        ("/gone/from/here", {".": "600000 100000"}, 6),
        ("/", {".": "no numbers"}, 16),
        ("/", {".": "0 0"}, 16),
    ],
)
def test_version_2(machine: Path, group: str, limits: dict[str, str], expected: int) -> None:
    v2(machine, group, limits)
    assert cpu.usable() == expected
    assert cpu.default_workers() == expected


@pytest.mark.parametrize(
    ("group", "limits", "expected"),
    [
        ("/", {".": (-1, 100000)}, 16),
        ("/docker/x", {".": (-1, 100000), "docker": (-1, 100000), "docker/x": (250000, 100000)}, 3),
        ("/docker/x", {"docker": (100000, 100000), "docker/x": (800000, 100000)}, 1),
        ("/docker/x", {".": (700000, 100000)}, 7),
    ],
)
def test_version_1(machine: Path, group: str, limits: dict[str, tuple[int, int]], expected: int) -> None:
    v1(machine, group, limits)
    assert cpu.usable() == expected


def test_a_container_that_sees_a_part_of_the_hierarchy(machine: Path) -> None:
    v1(machine, "/docker/x/job", {".": (400000, 100000), "job": (300000, 100000)}, root="/docker/x")
    assert cpu.usable() == 3
    v2(machine, "/elsewhere", {".": "200000 100000"}, root="/docker/x")
    assert cpu.usable() == 2


def test_affinity_counts_too_and_other_systems_have_no_quota(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu.usable() == 16
    v2(machine, "/", {".": "400000 100000"})
    monkeypatch.setattr(os, "process_cpu_count", lambda: 2)
    assert cpu.usable() == 2
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert cpu.usable() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu.usable() == 1


def test_no_more_workers_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 400)
    assert cpu.default_workers() == 64


def test_free_memory_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "meminfo"
    monkeypatch.setattr(cpu, "_MEMINFO", place)
    assert cpu.free_memory() is None
    place.write_text("MemTotal:  2000 kB\nMemAvailable:  1500 kB\n")
    assert cpu.free_memory() == 1500 * 1024
    place.write_text("MemTotal:  2000 kB\n")
    assert cpu.free_memory() is None
