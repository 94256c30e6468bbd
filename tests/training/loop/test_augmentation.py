"""What the device does of the augmentation is what the threads would have done, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from whole_runs import assert_same_weights

from cnn_tl.core.errors import RecipeError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.progress import Observer
from cnn_tl.data.views.augment import Augmentation, Finish, augment, finish_of
from cnn_tl.data.views.transforms import mean_colour
from cnn_tl.recipe import Recipe
from cnn_tl.training.context import Run
from cnn_tl.training.loop import augmentation, batches
from cnn_tl.training.loop.augmentation import finished
from cnn_tl.training.run import train
from cnn_tl.training.run_folder import RunFolder

SPEC = Preprocessing(48, 64, "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = Augmentation(0.5, True, 0.2)
SETTINGS = [
    PLAIN,
    replace(PLAIN, color=1),  # down to black, and far beyond white
    replace(PLAIN, color=0, erasing=0.5),
    replace(PLAIN, policy="trivialaugment", erasing=0.5),
    replace(PLAIN, color=0),
]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]
VIEWS = 200


def sample_images(kind: str) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (20, 70, 90, 3), dtype=np.uint8)
    smooth = [Image.fromarray(pixels[:5, :7]).resize((90, 70), Image.Resampling.BICUBIC) for pixels in noise]
    return smooth if kind == "smooth" else [Image.fromarray(pixels) for pixels in noise]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_pixels_as_from_pillow(settings: Augmentation, kind: str, device: str) -> None:
    images = sample_images(kind)

    def views(**options: bool) -> Any:
        each = [augment(images[seed % 20], SPEC, settings, seed, **options) for seed in range(VIEWS)]
        return torch.from_numpy(np.stack(each))

    finishes = [finish_of(SPEC, settings, seed) for seed in range(VIEWS)]
    found = finished(views(finished=False).to(device), finishes, mean_colour(SPEC)).cpu()
    assert found.dtype == torch.uint8
    assert torch.equal(found, views())


@pytest.mark.parametrize("device", DEVICES)
def test_it_finds_out_whether_the_device_agrees(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert augmentation.agrees(torch.device(device), SPEC)
    real = augmentation._blended
    monkeypatch.setattr(augmentation, "_blended", lambda *given: real(*given) + 1)
    assert not augmentation.agrees(torch.device(device), SPEC)


def test_a_hole_and_no_hole_in_one_batch() -> None:
    pixels = torch.full((2, 4, 5, 3), 9, dtype=torch.uint8)
    found = finished(pixels, [Finish(None, (1, 2, 3, 4)), Finish(None, None)], (1, 2, 3))
    assert (found[0, 2:4, 1:3] == torch.tensor([1, 2, 3])).all()
    assert (found == 9).all(-1).sum() == 2 * 4 * 5 - 4
    assert (pixels == 9).all(), "what was given stays"


@pytest.mark.parametrize("policy", ["none", "trivialaugment"])
def test_a_run_ends_in_the_same_weights(recipe: Callable[..., Recipe], tmp_path: Path, policy: str) -> None:
    varied = {"policy": policy, "erasing": 0.5, "mixup": 0.2}
    for where in ("threads", "device"):
        train(recipe("finetune", augment=varied, run={"augment": where}), tmp_path / where)
    assert_same_weights(tmp_path / "threads", tmp_path / "device")


def test_the_device_is_asked_for_its_part(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would compare the threads with themselves."""
    counts = []

    def spy(pixels_NHW3: torch.Tensor, *more: Any) -> torch.Tensor:
        counts.append(len(pixels_NHW3))
        return finished(pixels_NHW3, *more)

    monkeypatch.setattr(batches, "finished", spy)
    train(recipe("finetune", run={"augment": "device"}))
    assert sum(counts) == 2 * 36
    train(recipe("finetune"))
    assert sum(counts) == 2 * 36, "not where nobody waits for it"


@pytest.mark.parametrize(
    ("device", "wanted", "share", "exact", "then"),
    [("cuda", "auto", 0.3, True, True), ("cuda", "auto", 0.3, False, False), ("cuda", "auto", 0.01, True, False),
     ("cuda", "threads", 0.3, True, False), ("cpu", "auto", 0.3, True, False), ("mps", "auto", 0.3, True, False)],
)  # fmt: skip
def test_a_gpu_that_has_waited_takes_over(
    monkeypatch: pytest.MonkeyPatch, device: str, wanted: str, share: float, exact: bool, then: bool
) -> None:
    notes: list[str] = []
    observer = Observer()
    observer.note = notes.append  # type: ignore[method-assign,assignment]
    recipe = Recipe.model_validate({"mode": "finetune", "run": {"augment": wanted}}).resolve()
    run = Run(recipe, RunFolder(Path("run")), observer)
    dataset: Any = SimpleNamespace(run=run, manifest=SimpleNamespace(of=lambda split: [None]))
    network: Any = SimpleNamespace(device=torch.device(device), info=SimpleNamespace(preprocessing=SPEC))
    made = batches.Batches(dataset, network)
    monkeypatch.setattr(batches, "agrees", lambda device, spec: exact)
    for _ in range(2):
        made.report_wait(share)
    assert (made._finishes_on_device, len(notes)) == (then, int(then))


@pytest.mark.parametrize(
    ("mode", "sections", "which"),
    [
        ("freeze", {}, "mode: freeze"),
        ("finetune", {"model": {"freeze": "last-stage"}}, "model.freeze"),
        ("finetune", {"augment": {"color": 0}}, "augment.color: 0 and augment.erasing: 0"),
    ],
)
def test_where_it_would_have_no_effect_it_is_refused(
    recipe: Callable[..., Recipe], mode: str, sections: dict[str, Any], which: str
) -> None:
    with pytest.raises(RecipeError, match=f"run.augment: device has no effect with {which}"):
        recipe(mode, run={"augment": "device"}, **sections).resolve()
