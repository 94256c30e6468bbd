"""The stages of a benchmark that train: the objects of a real run, on the sample, without a run folder that stays."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.formatting import counted, duration
from cnn_tl.data.loader import in_groups, reading
from cnn_tl.data.manifest import ImageRecord, Manifest
from cnn_tl.data.reading.pool import pools_kept
from cnn_tl.data.views.augment import draw_view
from cnn_tl.evaluating.benchmark_stages import (
    AHEAD,
    READ_AT_ONCE,
    Measured,
    NotMeasuredError,
    Stage,
    Workload,
    arrivals_of,
    measured,
)
from cnn_tl.features.cuda_batch_size import cuda_batch_size
from cnn_tl.features.onnx_engine import OnnxEngine
from cnn_tl.networks.backbone import place
from cnn_tl.recipe import Recipe
from cnn_tl.recipe.resolved import FinetuneRecipe, LoopRecipe
from cnn_tl.training.backbone_graph import trace
from cnn_tl.training.checkpoints.train_state import Progress
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset, Pixels, Selection
from cnn_tl.training.lazy_network import LazyNetwork, find_network
from cnn_tl.training.loop.device_limit import device_limit, ready_step, synchronize
from cnn_tl.training.loop.pending_losses import PendingLosses
from cnn_tl.training.loop.trainable import Trainable, loop_surroundings, open_trainable
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.sources import tiers
from cnn_tl.training.sources.sources import open_sources
from cnn_tl.training.step import precision as precisions
from cnn_tl.training.step.update import Update
from cnn_tl.training.views.random_views import RandomViews

EPOCH = 16_384
"""Images of an epoch, the sample repeated: readers that start again at each epoch would cost more than they do in a run
with many images."""

STEP_COST = 3.0
"""Cost of a training step in forward passes: one forward, and about two for the gradients."""

SMALLEST_STEP = 2
"""Images; batch normalisation cannot train on fewer."""

WARM_UP = 3
"""Steps from images that are not timed on a GPU, which chooses its kernels in them; on a CPU one is enough."""

COPIED_BYTES = 64 * 2**20

LR = 1e-6
"""Learning rate of the steps, which are only timed."""


class Training:
    """A run of mode scratch on the sample, as far as its first steps.

    Args:
        stack: ends what a loop needs around it.

    Attributes:
        work: the workload of all stages.
        precision, batch_size: of the steps.
        note: that the steps have fewer images, if so.
    """

    def __init__(self, work: Workload, run: Run[LoopRecipe], network: LazyNetwork, stack: ExitStack) -> None:
        self.work, self._stack, self._network = work, stack, network
        self.dataset = Dataset(run, work.spec, Selection(work.manifest))
        self.precision = precisions.by_rule(work.network, work.device)
        self.batch_size = run.batch_size
        self.note = ""
        self._trainable: Trainable | None = None
        self._is_prepared = False

    @property
    def run(self) -> Run[LoopRecipe]:
        """The run."""
        return self.dataset.run

    def prepare(self, seconds: float) -> None:
        """Decode images once to what a training loop keeps of them; the loop then uses these."""
        if self._is_prepared:
            return
        self._is_prepared = True
        fit = int(seconds * default_workers() / (1.5 * self.work.decode_seconds))
        images = list(self.work.readable)[: max(SMALLEST_STEP, fit)]
        self.dataset.check_images(images)
        usable = set(self.dataset.manifest.images)
        images = [image for image in images if image in usable]
        repeated = tuple(itertools.islice(itertools.cycle(images), EPOCH))
        self.dataset = Dataset(self.run, self.work.spec, Selection(replace(self.work.manifest, images=repeated)))

    def views_by_threads(self, seconds: float) -> Measured:
        """Draw random views of kept images with threads, as a loop on a CPU does."""
        started = time.perf_counter()
        self.prepare(seconds / 2)
        images, seeds = self.dataset.images, itertools.count()
        kept = itertools.cycle(dict.fromkeys(self.dataset.manifest.images))
        ends = max(started + seconds, time.perf_counter() + seconds / 4)
        groups = (list(itertools.islice(kept, len(group))) for group in self.work.groups(READ_AT_ONCE, ends))

        def view(image: ImageRecord) -> Pixels:
            return images.augmented(image, next(seeds))

        with reading(groups, view, workers=default_workers(), ahead=AHEAD) as batches:
            return measured(arrivals_of(self.work, batches))

    def views_on_device(self, seconds: float) -> Measured:
        """Draw random views on the device, from images in its memory or wherever a loop would have them."""
        started = time.perf_counter()
        self.prepare(seconds / 2)
        device, spec, settings = self.work.device, self.work.spec, self.run.augmentation
        assert settings is not None, "mode scratch augments"
        images = self.dataset.manifest.images
        sources, views = open_sources(self.dataset, images, device), RandomViews(spec, settings, device)
        groups, seeds, done = in_groups(images, self.batch_size), itertools.count(), 0
        ends = max(started + seconds, time.perf_counter() + seconds / 4)
        with sources.steps(groups) as steps:
            for number, loaded in enumerate(steps):
                drawn = [draw_view(width, height, spec, settings, next(seeds)) for height, width in loaded.sizes]
                views(loaded.batch, drawn)
                loaded.release()
                if number < WARM_UP:
                    synchronize(device)
                    started = time.perf_counter()
                else:
                    done += len(drawn)
                    if time.perf_counter() > ends:
                        break
            synchronize(device)
        return Measured(done, time.perf_counter() - started, done)

    def ready(self, seconds: float) -> Measured:
        """Make training steps on tensors that are on the device already: the most that the device can do."""
        trainable = self._opened(seconds)
        update = self._update(trainable)
        with trainable.batches.steps(1, 0) as steps:
            step = next(steps)
            x, targets_NK = trainable.targets.mixed(step, 0)
            measure = partial(
                device_limit, ready_step(update, x, targets_NK), step.total, models=[trainable.model],
                optimizer=update.optimizer, device=self.work.device,
            )  # fmt: skip
            if self.work.device.type != "cpu":
                measure(seconds=0)  # a GPU chooses its kernels in the first step
            limit = measure(seconds=seconds)
        if limit is None:
            raise NotMeasuredError("memory is tight")
        return Measured(step.total, step.total / limit, step.total, self.note)

    def from_sources(self, seconds: float) -> Measured:
        """Make training steps as the loop does, each on images that have not been seen yet."""
        trainable = self._opened(seconds)
        device, update, progress = self.work.device, self._update(trainable), Progress(lr=LR)
        losses, warm_up = PendingLosses(device, progress), 1 if device.type == "cpu" else WARM_UP
        images, started = 0, time.perf_counter()
        ends = started + seconds
        with trainable.batches.steps(1, 0) as steps:
            for step in steps:
                x, targets_NK = trainable.targets.mixed(step, progress.step)
                losses.add(update(x, targets_NK, progress.step, total=step.total), step.total)
                progress.step += 1
                losses.read(wait=progress.step == warm_up)
                if progress.step == warm_up:  # the first one also waits for its images
                    started = time.perf_counter()
                elif progress.step > warm_up:
                    images += step.total
                    if time.perf_counter() > ends:
                        break
            synchronize(device)
            took = time.perf_counter() - started
        return Measured(images, took, images, self.note)

    def _update(self, trainable: Trainable) -> Update:
        clip_grad = self.run.recipe.train.clip_grad
        return Update(trainable.model, trainable.optimizer(LR), trainable.gradients, clip_grad)

    def _opened(self, seconds: float) -> Trainable:
        """Return what a step needs, with as many images in a step as the time allows for two of them."""
        if self._trainable is not None:
            return self._trainable
        self.prepare(seconds / 2)
        each = STEP_COST * min(self.work.seconds_per_image.values(), default=0)
        wanted = self.batch_size
        size = wanted if not each or self.work.device.type != "cpu" else min(wanted, int(seconds / (2 * each)))
        if size < SMALLEST_STEP:
            raise NotMeasuredError(f"more than {duration(seconds)}")
        if size < wanted:
            self.note = f"{size} a step, not {wanted}"
        train = self.run.recipe.train.model_copy(update={"batch_size": size})
        run = replace(self.run, recipe=self.run.recipe.model_copy(update={"train": train}))
        manifest = self.dataset.manifest
        images = manifest.images[: EPOCH - EPOCH % size]  # the steps of an epoch are then equally large
        self.dataset = Dataset(run, self.work.spec, Selection(replace(manifest, images=images)))
        self._stack.enter_context(loop_surroundings(self.run, self._network))
        model = place(self._network.model, self.work.device)
        self._trainable = open_trainable(self.dataset, self._network, model, self.precision, Progress(lr=LR))
        return self._trainable


@contextmanager
def training(manifest: Manifest, model: str, device: DeviceName) -> Iterator[Training]:
    """Yield the training of a benchmark, and with it the network of all stages; nothing of it stays on disk.

    Raises:
        UsageError: there is no such model.
        ResourceError: the device is not available.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cnn-tl-benchmark-run-"))
        tree = {
            "mode": "scratch",
            "data": {"path": str(manifest.root)},
            "model": {"name": model},
            "features": {"cache": False},
            "run": {"device": device},
        }
        recipe = Recipe.model_validate(tree).resolve()
        assert isinstance(recipe, FinetuneRecipe)
        run: Run[LoopRecipe] = Run(recipe, RunFolder(Path(folder) / "run"))
        network = find_network(run, None, len(manifest.classes))
        built, where = network.build(), network.device
        at_once = cuda_batch_size(built.preprocessing) if where.type == "cuda" else 16
        onnx = _onnx_engine(network) if where.type == "cpu" else None
        work = Workload(built, where, manifest, at_once, onnx=onnx)
        stack.enter_context(pools_kept())  # processes are started once
        yield Training(work, run, network, stack)


def _onnx_engine(network: LazyNetwork) -> OnnxEngine | None:
    """Return the engine of mode freeze on a CPU; None if onnxruntime cannot run this network."""
    from cnn_tl.networks.graph.trace import NoGraphError

    if not network.info.num_features:
        return None
    try:
        return network.onnx_engine(network.remembered.graph or trace(network.build()))
    except (ArtefactError, NoGraphError):
        return None


def training_stages(found: Training) -> list[Stage]:
    """Return the stages of a training loop."""
    device, ready, stages = found.work.device, "training step, tensors ready", []
    if device.type == "cuda":
        stages.append(Stage("copy to the device, pinned", "GB/s", 0.5, partial(copy_to, device)))
    if tiers.draws_on_device(found.run, device):
        stages.append(Stage("random views, on the device", "views/s", 2.0, found.views_on_device))
    else:
        name = f"random views, {counted(default_workers(), 'thread')}"
        stages.append(Stage(name, "views/s", 2.0, found.views_by_threads))
    return [
        *stages,
        Stage(ready, "img/s", 2.5, found.ready),
        Stage("training step, from images", "img/s", 3.0, found.from_sources, ready),
    ]


def copy_to(device: torch.device, seconds: float) -> Measured:
    """Copy a block of pinned host memory to the device, again and again."""
    block = torch.empty(COPIED_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
    copied, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(8):
            there.copy_(block, non_blocking=True)
        synchronize(device)
        copied += 8 * COPIED_BYTES
    return Measured(copied, time.perf_counter() - started)
