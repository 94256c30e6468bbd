"""Weights & Biases: online for users who have logged in, else files in RUN/wandb for `wandb sync`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

import wandb

from cnn_tl.cache.location import default_root
from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError
from cnn_tl.tracking.flat_rows import by_step, numbers
from cnn_tl.tracking.tracker import Rows, TrackedRun

PROJECT = "cnn-tl"


class WeightsAndBiases:
    """Logs the recipe as config, rows by step, and the numbers of the result as summary; keeps its id in RUN."""

    def __init__(self, tracked_run: TrackedRun) -> None:
        self._state = tracked_run.run / "wandb" / "run.json"
        try:
            state = files.read_json(self._state)
        except ArtefactError:
            state = {"id": secrets.token_hex(8), "step": -1}
        self._id, self._step = str(state["id"]), int(state["step"])
        files.write_json(self._state, state)
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_CACHE_DIR", str(default_root() / "wandb"))  # for its debug logs
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=tracked_run.run.name,
            id=self._id,
            resume="allow",
            reinit="create_new",  # leaves a run that the caller has open alone
            dir=tracked_run.run,
            mode=_mode(),
            config=dict(tracked_run.params),
            allow_val_change=True,  # a run may be resumed with more epochs
            settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
        )

    def rows(self, rows: Rows) -> None:
        """Log the rows after the last logged step; steps must rise."""
        for step, row in sorted(by_step(rows).items()):
            if step > self._step:
                self._run.log(numbers(row), step=step, commit=True)
                self._step = step
        files.write_json(self._state, {"id": self._id, "step": self._step})

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the numbers of the result into the summary, such as `result.accuracy`."""
        counts = {name: value for name, value in result.items() if name != "per_class"}
        self._run.summary.update({f"result.{name}": value for name, value in numbers(counts).items()})

    def close(self, *, finished: bool) -> None:
        """Write what is left; online, wait until it is sent."""
        self._run.finish(exit_code=0 if finished else 1)


def _mode() -> Any:
    """Return WANDB_MODE, else online if the user has logged in; never ask for a login."""
    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
