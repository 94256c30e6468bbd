"""A folder is read once: features, thumbnails, measures and headers, all but the headers from the cache later on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cnn_tl.core.errors import DivergedError
from cnn_tl.core.progress import Observer
from cnn_tl.data.decoding.image import read_image
from cnn_tl.doctor.collecting import Collected, collected
from cnn_tl.doctor.headers import UNKNOWN, Header, read_header
from cnn_tl.doctor.measures import MEASURES, measure
from cnn_tl.recipe import Recipe
from cnn_tl.training.modes.features import SplitFeatures

if TYPE_CHECKING:
    from cnn_tl.recipe.resolved import FreezeRecipe

Collect = Callable[[Path], AbstractContextManager[Collected]]


def test_all_splits_are_collected_and_cached(collect: Collect, photos: Path) -> None:
    with collect(photos) as first:
        images = first.collection
        assert first.computed == len(images) == 18
        assert images.splits.count("test") == 3
        assert images.thumbnails.shape == (18, 64, 64, 3)
        assert images.measures.shape == (18, len(MEASURES))
        assert {(one.width, one.height, one.format, one.mode) for one in images.headers} == {(24, 24, "PNG", "RGB")}
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    with collect(photos) as second:
        assert second.computed == 0
        for name in ("features", "thumbnails", "measures"):
            np.testing.assert_array_equal(getattr(second.collection, name), getattr(images, name))
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before


def test_images_in_memory_are_seen_as_the_files_are(collect: Collect, photos: Path) -> None:
    with collect(photos) as found:
        images = found.collection
        features, thumbnails = images.view_of([images.open(index) for index in (0, 17)])
        np.testing.assert_array_equal(features, images.features[[0, 17]])
        np.testing.assert_array_equal(thumbnails, images.thumbnails[[0, 17]])
        assert images.view_of([])[0].shape == (0, images.features.shape[1])


def test_images_that_cannot_be_read_are_set_aside(collect: Collect, photos: Path) -> None:
    path = photos / "train" / "a" / "3.png"
    path.write_bytes(path.read_bytes()[:300])
    with collect(photos) as found:
        assert len(found.collection) == 17
        assert "train/a/3.png" not in found.collection.files
        assert [one.path for one in found.manifest.set_aside] == ["train/a/3.png"]


def test_features_that_are_not_finite_are_refused(
    collect: Collect, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflown(self: SplitFeatures, view: int) -> np.ndarray:
        return np.full((len(self.images), 8), np.inf, np.float32)

    monkeypatch.setattr(SplitFeatures, "__getitem__", overflown)
    with pytest.raises(DivergedError, match="NaN or infinite"), collect(photos):
        pass


@pytest.mark.parametrize("quality", [10, 40, 75, 95])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(tmp_path: Path, quality: int) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "x.jpg", quality=quality)
    assert read_header(tmp_path / "x.jpg").quality == quality


def test_a_header_has_camera_time_and_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110] = 6, "Maker", "One\0"
    exif.get_ifd(0x8769)[0x9003] = "2026:11:28 07:00:00"
    Image.new("RGB", (30, 20)).save(tmp_path / "x.jpg", exif=exif)
    found = read_header(tmp_path / "x.jpg")
    assert (found.width, found.height, found.camera, found.taken) == (20, 30, "Maker One", "2026:11:28 07:00:00")
    (tmp_path / "y.jpg").write_bytes(b"no image")
    assert read_header(tmp_path / "y.jpg") == UNKNOWN


def test_the_header_of_a_png_is_read_without_its_pixels(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:1000])  # decoding it would fail
    assert read_header(tmp_path / "x.png") == Header(64, 64, "PNG", "L")


def test_measures_tell_light_blur_and_border() -> None:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    column = MEASURES.index
    plain, blurred = measure(image, 64), measure(image.filter(ImageFilter.GaussianBlur(2)), 64)
    assert blurred[column("sharpness")] < plain[column("sharpness")] / 4
    assert measure(image.point(lambda value: value // 4), 64)[column("brightness")] < plain[column("brightness")] / 3
    framed = np.asarray(image).copy()
    framed[:3] = framed[-3:] = 255
    framed[:, :3] = framed[:, -3:] = 255
    found = measure(Image.fromarray(framed), 64)
    assert found[column("border_red")] == 255
    assert found[column("border_contrast")] == pytest.approx(0, abs=1e-3)


def test_one_colour_and_strips_have_finite_measures(tmp_path: Path) -> None:
    for size in ((4, 4), (4, 300), (5, 5000)):
        Image.new("RGB", size, (200, 10, 10)).save(tmp_path / "x.png")
        assert np.isfinite(measure(read_image(tmp_path / "x.png"), 32)).all()


def test_features_of_another_backbone_are_taken_from_the_cache(collect: Collect, photos: Path) -> None:
    with collect(photos) as before:
        assert before.more == {}
    recipe = Recipe.model_validate(
        {"mode": "freeze", "data": {"path": str(photos)}, "run": {"device": "cpu"}}
    ).resolve()
    with collected(cast("FreezeRecipe", recipe), Observer()) as default:
        expected = default.collection.features
        assert default.backbone == "tf_efficientnet_lite0"
    with collect(photos) as after:
        assert list(after.more) == ["tf_efficientnet_lite0"]
        np.testing.assert_array_equal(after.more["tf_efficientnet_lite0"], expected)
    (photos / "train" / "a" / "0.png").unlink()
    (photos / "train" / "a" / "1.png").write_bytes((photos / "val" / "a" / "1.png").read_bytes())
    with collect(photos) as fewer:
        assert len(fewer.more["tf_efficientnet_lite0"]) == len(fewer.collection) == 17
