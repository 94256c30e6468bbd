"""The processes that decode images, as the system sees them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence


def decoders_of(pid: int) -> list[int]:
    """Return the ids of the processes that decode images for another one."""
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in done.stdout.splitlines() if "reading.worker" in line]


def wait_until_gone(pids: Sequence[int], seconds: float = 60) -> None:
    """Wait until no process has one of these ids."""
    end = time.monotonic() + seconds
    while not all(map(_is_gone, pids)):
        assert time.monotonic() < end
        time.sleep(0.02)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
