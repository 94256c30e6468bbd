"""A process that decodes images, seen from the one that starts it."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from typing import Any

from cnn_tl.data.reading.shared_memory import SharedMemory
from cnn_tl.data.reading.worker import Greeting, Reply, Request

_PROGRAM = """
import pickle, sys
try:
    sys.path[:] = pickle.load(sys.stdin.buffer)
except (EOFError, pickle.UnpicklingError):  # the process that it belongs to was killed at once
    sys.exit()
from cnn_tl.data.reading.worker import main
main()
"""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment: numpy would start a thread for each core in each process."""


class WorkerProcess:
    """One process of `worker.py`, which ends at the latest with this one.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, memory: SharedMemory) -> None:
        options: dict[str, Any] = {}
        if sys.platform == "win32":
            options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        else:
            options |= {"pass_fds": memory.descriptors, "start_new_session": True}  # out of reach of Ctrl-C and Ctrl-Z
        flags = ["-P", "-X", f"utf8={sys.flags.utf8_mode}", "-W", "ignore"]
        self._process = subprocess.Popen(
            [sys.executable, *flags, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
            **options,
        )
        try:
            self._send(sys.path)
            self._send(Greeting(memory.handle, os.getpid()))
        except OSError:  # it has ended already
            self.close()
            raise

    def send(self, request: Request) -> None:
        """Send a request.

        Raises:
            OSError: the process has ended.
        """
        self._send(request)

    def receive(self) -> Reply:
        """Wait for the reply to the first request that has none yet.

        Raises:
            EOFError, pickle.UnpicklingError: the process has ended.
        """
        assert self._process.stdout is not None
        reply: Reply = pickle.load(self._process.stdout)
        return reply

    def kill(self) -> None:
        """Let the process end; may be called from any thread."""
        self._process.kill()

    def close(self) -> None:
        """End the process and wait for it; only the thread that talks to it may call this."""
        self._process.kill()
        with contextlib.suppress(OSError):  # a request that was only half sent
            self._process.communicate()
        self._process.wait()  # also where `communicate` gave up before

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        pickle.dump(message, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()
