"""TensorBoard: event files in RUN/tensorboard, written by the `tensorboard` package without torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from cnn_tl.tracking.flat_rows import Scalar, by_step, flatten, numbers
from cnn_tl.tracking.tracker import Rows, TrackedRun


class TensorBoard:
    """Logs scalars by step under their column names, and the recipe and the result as text."""

    def __init__(self, tracked_run: TrackedRun) -> None:
        folder = tracked_run.run / "tensorboard"
        new = not folder.is_dir()
        self._written = set() if new else _steps_in(folder)
        self._writer = EventFileWriter(str(folder))
        if new:
            self._write(text_pb("recipe", _table(tracked_run.params)), step=0)

    def rows(self, rows: Rows) -> None:
        """Write the rows whose steps are in no event file yet."""
        for step, row in by_step(rows).items():
            if step not in self._written:
                values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers(row).items()]
                self._write(Summary(value=values), step)
                self._written.add(step)
        self._writer.flush()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result as a table."""
        self._write(text_pb("result", _table(flatten(result))), step=max(self._written, default=0))

    def close(self, *, finished: bool) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def _write(self, summary: Summary, step: int) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def _steps_in(folder: Path) -> set[int]:
    """Return the steps with scalars; a file truncated by a kill is read up to there."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 1})
    events.Reload()
    return {event.step for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}


def _table(values: Mapping[str, Scalar]) -> str:
    """Return a Markdown table, which TensorBoard shows as text."""
    lines = [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
