"""Which tests see a GPU: those marked `gpu`, and the processes that they start.

All others compute on the CPU, with `--device auto` too, so that they find the same on every machine. This can only be
so for a whole process, since CUDA reads `CUDA_VISIBLE_DEVICES` once: `pytest` hides the GPUs, `pytest -m gpu` does not,
and `test_gpu.py` starts the latter from the former.
"""

from __future__ import annotations

import os
import re

import pytest

VISIBLE = "CUDA_VISIBLE_DEVICES"
_OF_THE_USER = "CNN_TL_TESTS_GPUS"
"""Keeps what `VISIBLE` was before; `_ALL`: it was not set."""
_ALL = "all"

ANY_DEVICE = "CNN_TL_TESTS_DEVICE"
"""The device of the tests that have a fixture `device`: `CNN_TL_TESTS_DEVICE=cpu pytest -m gpu` tries them without."""


def are_wanted(config: pytest.Config) -> bool:
    """Return whether `-m` selects tests marked `gpu`."""
    expression = config.option.markexpr
    return re.search(r"\bgpu\b", expression) is not None and re.search(r"\bnot gpu\b", expression) is None


def hide() -> None:
    """Hide all GPUs from this process and those that it starts; call it before CUDA is asked for the first time."""
    os.environ.setdefault(_OF_THE_USER, os.environ.get(VISIBLE, _ALL))
    os.environ[VISIBLE] = "-1"  # Windows would take an empty value for none


def make_deterministic_runs_possible() -> None:
    """Set what cuBLAS needs for them before any other run: torch looks for it once in a process, at the first product.

    `core.device.deterministic` sets it in the process of a command, which has one run.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def environment() -> dict[str, str]:
    """Return the variables of a new process of pytest that sees what the user can see."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", VISIBLE, _OF_THE_USER))}
    of_the_user = os.environ.get(_OF_THE_USER, _ALL)
    return kept if of_the_user == _ALL else kept | {VISIBLE: of_the_user}


def why_not_run(config: pytest.Config, item: pytest.Item) -> str:
    """Return why a test marked `gpu` cannot run in this process; empty if it can."""
    import torch

    if not are_wanted(config):
        return "needs a GPU, which this process hides: pytest -m gpu"
    given = getattr(item, "callspec", None)
    takes_any_device = "device" in getattr(item, "fixturenames", ()) and not (given and "device" in given.params)
    can_run = torch.cuda.is_available() or (takes_any_device and ANY_DEVICE in os.environ)
    return "" if can_run else "needs a GPU"


class FailuresAtOnce:
    """Names each failure when it happens: a GPU is often lent for minutes, and the summary then never comes."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        screen = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and screen is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = (crash.message if crash else report.longreprtext.strip()).partition("\n")[0]
            screen.write(f"\nFAILED {report.nodeid} ({report.when}): {reason}\n", flush=True)
