"""The functions as a notebook calls them: what they return and show, and what they leave as it was."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import random
import re
import signal
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from rich.console import Console
from whole_runs import StopAfter

import cnn_tl
from cnn_tl.api.observers import choose_observer, quiet_dependencies
from cnn_tl.cli.terminal.bars import NotebookObserver, TerminalObserver
from cnn_tl.core.errors import DataError, RecipeError, Stopped, UsageError
from cnn_tl.core.progress import Observer

ROOT = Path(cnn_tl.__file__).parents[1]


def test_a_result_stands_wherever_its_run_folder_may(result: cnn_tl.TrainResult, photos: Path, tmp_path: Path) -> None:
    image = photos / "light" / "0.png"
    [answer] = cnn_tl.predict(result, image)
    assert (answer.label, answer.file) == ("light", str(image))
    assert [answer] == cnn_tl.predict(result.run, str(image)) == cnn_tl.predict(str(result.run), [image])
    assert [answer] == list(cnn_tl.load(result).predict(image))
    found = cnn_tl.evaluate(result, photos)
    assert (found.images, found.accuracy) == (result.images, result.accuracy)
    table = cnn_tl.inspect(result)
    assert (table.model, table.training.mode, table.trainable) == ("test_resnet", "freeze", 2 * 96 + 2)
    report = cnn_tl.explain(result, image, output=tmp_path / "out", faithfulness=False)
    assert [getattr(row, "label", None) for row in report.rows] == ["light"]
    assert report._repr_png_() == (tmp_path / "out" / report.sheets[0]).read_bytes()
    shares = r"100%? ?[.0]*%? of 4 right \(51\.0% to 100[.0]*%\)"
    assert re.fullmatch(rf"<TrainResult \S+run: {shares}, baseline 50[.0]*%>", repr(result))
    assert re.fullmatch(rf"<Evaluation \S+run on \S+photos: {shares}>", repr(found))
    assert re.fullmatch(r"<ExplainReport of gradcam: 1 row in \S+out>", repr(report))
    assert re.fullmatch(r"<Table test_resnet: \d+ rows, [\d,]+ parameters, [\d,]+ multiply-adds>", repr(table))


def test_a_model_by_name_and_what_would_train_in_it() -> None:
    whole = cnn_tl.inspect("test_resnet")
    assert whole.trainable < whole.parameters == cnn_tl.inspect("test_resnet", mode="finetune").trainable
    assert cnn_tl.inspect("test_resnet", freeze=["layer4"], depth=1).trainable > whole.trainable
    with pytest.raises(UsageError, match="no_such"):
        cnn_tl.inspect("no_such")


def test_a_range_test_gives_rates_and_losses(photos: Path, settings: dict[str, Any]) -> None:
    found = cnn_tl.lr_find(photos, batch_size=8, quiet=True, **settings)
    assert len(found.rates) == len(found.losses) >= 8
    assert re.fullmatch(r"<RangeTest of \d+ rates: .+>", repr(found))


def test_a_finished_run_is_resumed_by_its_folder(
    result: cnn_tl.TrainResult, photos: Path, settings: dict[str, Any]
) -> None:
    assert cnn_tl.train(photos, result, resume=True, **settings) == result
    assert cnn_tl.train(output=result.run, resume=True) == result


def test_errors_are_raised_and_nothing_is_printed(
    photos: Path, settings: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind, call in (
        (DataError, lambda: cnn_tl.train(tmp_path / "nowhere", tmp_path / "run")),
        (RecipeError, lambda: cnn_tl.train(photos, tmp_path / "run", mode="finetun")),
        (UsageError, lambda: cnn_tl.train(quiet=False)),
        (UsageError, lambda: cnn_tl.explain(tmp_path, photos, method="guess")),
        (UsageError, lambda: cnn_tl.explain(tmp_path, Image.new("RGB", (8, 8)))),  # type: ignore[arg-type]
        (cnn_tl.CnnTlError, lambda: cnn_tl.predict(tmp_path, photos)),
        (cnn_tl.CnnTlError, lambda: cnn_tl.evaluate(tmp_path, photos)),
        (cnn_tl.CnnTlError, lambda: cnn_tl.explain(tmp_path, photos)),
    ):
        with pytest.raises(kind):
            call()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("call", "given"),
    [
        (cnn_tl.predict, {"top": 0}),
        (cnn_tl.predict, {"batch_size": 0}),
        (cnn_tl.predict, {"workers": -1}),
        (cnn_tl.predict, {"device": "gpu"}),
        (cnn_tl.evaluate, {"limit": -1}),
        (cnn_tl.evaluate, {"batch_size": -32}),
        (cnn_tl.evaluate, {"device": "gpu"}),
        (cnn_tl.explain, {"limit": 0}),
        (cnn_tl.explain, {"device": "gpu"}),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_a_model_is_read(
    call: Callable[..., Any], given: dict[str, Any], tmp_path: Path
) -> None:
    [(name, value)] = given.items()
    with pytest.raises(UsageError, match=f"^{name}: got {value!r}, allowed "):
        call(tmp_path / "nowhere", tmp_path, **given)


def test_a_split_that_does_not_exist_is_not_taken_for_another(result: cnn_tl.TrainResult, tmp_path: Path) -> None:
    for label in result.per_class:
        (tmp_path / "val" / label).mkdir(parents=True)
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "val" / label / "a.png")
    with pytest.raises(UsageError, match="has no split vall; it has "):
        cnn_tl.evaluate(result, tmp_path, split="vall")


def test_a_split_of_no_data_is_not_ignored(result: cnn_tl.TrainResult, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="split is one of data"):
        cnn_tl.compare([result, tmp_path], split="val")


def test_stop_raises_our_exception_and_the_handlers_are_the_callers(
    photos: Path, settings: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped, match="stopped; go on with"):
        cnn_tl.train(photos, tmp_path / "run", observer=StopAfter("features", 1), **settings)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert capfd.readouterr() == ("", "")


def state() -> dict[str, Any]:
    """Return what belongs to the caller's process."""
    switches = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul
    return {
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "hooks": (sys.excepthook, sys.unraisablehook),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": torch.get_default_dtype(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "fp32": [switch.fp32_precision for switch in switches],
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "torch's numbers": torch.get_rng_state().tolist(),
        "numpy's numbers": np.random.get_state()[1].tolist(),
        "python's numbers": random.getstate(),
        "matplotlib": matplotlib.get_backend(auto_select=False),
        "plots": {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"},
        "warnings": list(warnings.filters),
        "logging": (logging.root.manager.disable, list(logging.root.handlers), logging.root.level),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "path": list(sys.path),
    }


def test_nothing_of_the_process_is_left_changed(
    result: cnn_tl.TrainResult, photos: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    """What another package does when it is imported is not ours, so it is, and the fixture has trained once."""
    importlib.import_module("torchcam.methods")
    image = photos / "dark" / "1.png"
    kept = [switch.fp32_precision for switch in (torch.backends.cudnn.conv, torch.backends.cuda.matmul)]
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        before = state()
        calls = {
            "train": lambda: cnn_tl.train(photos, tmp_path / "freeze", run={"deterministic": True}, **settings),
            "finetune": lambda: cnn_tl.train(photos, tmp_path / "tune", mode="finetune", epochs=1, **settings),
            "load": lambda: cnn_tl.load(result),
            "predict": lambda: cnn_tl.predict(result, image),
            "evaluate": lambda: cnn_tl.evaluate(result, photos),
            "explain": lambda: cnn_tl.explain(result, image, output=tmp_path / "out", faithfulness=False),
            "inspect": lambda: cnn_tl.inspect(result),
        }
        for name, call in calls.items():
            call()
            after = state()
            changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
            assert not changed, name
    finally:
        torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = kept


def test_reading_images_leaves_the_warnings_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own warnings are kept from a training run by a filter that ends with it, not by one for ever."""
    from cnn_tl.data.decoding import image

    spec = importlib.util.spec_from_file_location("again", str(image.__file__))
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "again", again)
    with warnings.catch_warnings():
        before = list(warnings.filters)
        spec.loader.exec_module(again)
        assert list(warnings.filters) == before


def test_what_others_murmur_is_kept_back_during_a_call_and_nothing_else_is() -> None:
    with quiet_dependencies():
        warnings.warn("IProgress not found. Please update jupyter and ipywidgets.", stacklevel=1)
        with pytest.warns(UserWarning, match="of the caller's own"):
            warnings.warn("one of the caller's own", stacklevel=1)


@pytest.mark.parametrize(("terminal", "notebook"), [(True, False), (False, True), (False, False)])
def test_progress_shows_where_somebody_looks(monkeypatch: pytest.MonkeyPatch, terminal: bool, notebook: bool) -> None:
    screen = types.SimpleNamespace(is_interactive=terminal, is_jupyter=notebook)
    monkeypatch.setattr("rich.console.Console", lambda **_: screen)
    made = choose_observer(None, quiet=False)
    assert isinstance(made, TerminalObserver) == (terminal or notebook)
    assert isinstance(made, NotebookObserver) == notebook
    own = Observer()
    assert choose_observer(own, quiet=True) is choose_observer(own, quiet=False) is own
    assert type(choose_observer(None, quiet=True)) is Observer


def test_where_nobody_looks_a_warning_is_logged(
    photos: Path, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A script, a job: what was left out must not go unnoticed."""
    root = tmp_path / "photos"
    for path in photos.rglob("*.png"):
        target = root / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (root / "dark" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert cnn_tl.train(root, tmp_path / "run", **settings).set_aside == 1
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (record.name, "0.png" in record.getMessage()) == ("cnn_tl", True)


def test_a_notebook_has_one_line_that_changes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Jupyter's own `display` is called; IPython need not be installed for anything else."""
    shown: list[str] = []

    class Handle:
        def update(self, bundle: dict[str, str], raw: bool) -> None:
            shown.append(bundle["text/plain"])

    def display(bundle: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.append(bundle["text/plain"])
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    now = [0.0]
    observer = NotebookObserver(Console(file=io.StringIO()), clock=lambda: now[0])
    with observer.task("embedding", 100):
        for _ in range(4):
            now[0] += 0.2
            observer.advance(10)
        with observer.task("measuring", None):
            pass
    assert shown[0] == "embedding"
    assert shown[1].startswith("embedding: 10/100")
    assert len([text for text in shown if "/100" in text]) == 2, "not at each of the images"
    assert shown[-3:] == ["measuring", "embedding", ""]
