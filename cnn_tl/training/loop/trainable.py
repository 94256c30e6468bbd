"""The network, its batches and its gradients: shared by the training loop and the learning-rate range test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from cnn_tl.core.device import Precision
from cnn_tl.recipe.defaults import default_lr
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.train_state import Progress
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.loop import lr_range_test
from cnn_tl.training.loop.auxiliary import auxiliary_classifiers
from cnn_tl.training.loop.batches import Batches
from cnn_tl.training.loop.lr_range_test import RangeTest
from cnn_tl.training.outcome import ActivationReads
from cnn_tl.training.sources.device_views import DeviceViews, open_views
from cnn_tl.training.step import optimizer as optim
from cnn_tl.training.step.gradients import Gradients
from cnn_tl.training.step.loss import Targets, make_loss
from cnn_tl.training.step.unfreezing import Phases


@dataclass(frozen=True)
class Trainable:
    """The objects that a training step needs, made by `open_trainable`.

    Attributes:
        model: the network's model, on its device.
        activations: whether activations of the frozen part are cached, for the result; None: nothing is frozen.
    """

    run: Run[LoopRecipe]
    network: LazyNetwork
    model: nn.Module
    batches: Batches
    phases: Phases
    targets: Targets
    gradients: Gradients
    activations: ActivationReads | None

    @property
    def whole_batch(self) -> int:
        """Images in one forward pass while memory suffices."""
        return self.run.recipe.train.micro_batch or self.run.batch_size + 1

    def enter(self, epoch: int) -> bool:
        """Freeze the parameters that the epoch does not train; return whether it begins a phase."""
        begins = self.phases.enter(epoch)
        if begins:
            self.connect()
        return begins

    def connect(self) -> None:
        """Let the processes exchange gradients of the parameters of this phase, and compile if the recipe says so.

        Steps are compiled only with `run.compile: always`: on two cores it took two minutes and made steps 14% faster.
        Each batch size is compiled (`dynamic=False`), so that the result does not depend on which size comes first
        after a resume.
        """
        model = self.model
        if self.run.recipe.run.compile == "always" and not self.batches.starts_at_activations:
            model = torch.compile(model, dynamic=False)  # type: ignore[assignment]
        self.gradients.use(self.run.world.parallel(model))

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        """Return a fresh optimizer of all parameters that train in some phase."""
        return optim.make_optimizer(self.model, self.run.recipe.train, self.network.device, self.phases.trains, lr)

    def range_test(self) -> RangeTest:
        """Run the learning-rate range test; the model stays as it was."""
        observer = self.run.observer
        with observer.task("learning rates", lr_range_test.images_in(self.batches)):
            return lr_range_test.range_test(
                self.model, self.optimizer(lr_range_test.LOWEST), self.gradients, self.batches, self.targets.of,
                observer.advance, self.run.recipe.mode,
            )  # fmt: skip

    def tested_lr(self) -> float:
        """Return the learning rate that a range test suggests, or the mode's default if the test is undecided."""
        note, found = self.run.observer.note, self.range_test()
        if found.suggestion is not None:
            note(f"learning rate {found.suggestion:.2g}, by a range test ({found.default})")
            return found.suggestion
        lr = default_lr(self.run.recipe)
        note(f"learning rate {lr:g}, the mode's default: a range test found no better one")
        return lr


def open_trainable(
    dataset: Dataset[LoopRecipe],
    network: LazyNetwork,
    model: nn.Module,
    precision: Precision,
    progress: Progress,
    device_views: DeviceViews | None = None,
) -> Trainable:
    """Freeze the parameters that the next epoch does not train, and open its batches, from images or activations.

    Args:
        model: the network's model, on its device, with the weights to start from.
        progress: see `Progress`; a cut-short last epoch is reopened.
        device_views: see `Batches`; None: they are opened if the run draws views on its device.

    Raises:
        ArtefactError: the checkpoint of `progress` does not fit the recipe.
    """
    run, settings = dataset.run, dataset.run.recipe.train
    views = device_views or open_views(dataset, network.info.preprocessing, network.device)
    batches = Batches(dataset, network, views)
    progress.reopen(batches.length.steps_per_epoch, batches.length.steps)
    phases = Phases(model, run.recipe.model, progress.receipts)
    with checkpoint.reporting_mismatch(run.folder.checkpoints) if progress.step else nullcontext():
        phases.enter(progress.epochs + 1)
    activations = batches.open(precision, gradual=phases.gradual)
    targets = Targets(run, dataset.manifest.classes, network.device)
    gradients = Gradients(
        model,
        make_loss(settings, targets.class_weights(batches.labels)),
        network.device,
        precision,
        run.recipe.seed,
        progress.micro_batch or settings.micro_batch or run.batch_size + 1,
        run.observer.note,
        run.world,
        settings.aux_weight,
        recorded=run.recipe.run.compile == "auto" and not run.recipe.run.deterministic,
    )
    trainable = Trainable(run, network, model, batches, phases, targets, gradients, activations)
    trainable.connect()
    _note_precision(run, f"{precision} on {network.device.type}", progress)
    return trainable


def _note_precision(run: Run[LoopRecipe], now: str, progress: Progress) -> None:
    """Warn if a run resumes in another precision or on another device, which changes the last bits."""
    before, progress.computed = progress.computed, now
    if before and before != now:
        run.observer.warn(f"the run resumes in {now}, after {before}: its weights will differ in the last bits")


@contextmanager
def loop_surroundings(run: Run[LoopRecipe], network: LazyNetwork) -> Iterator[None]:
    """Add the auxiliary classifiers inside the body, and restore the caller's random generators, which steps seed."""
    devices = range(torch.cuda.device_count()) if network.device.type == "cuda" else ()
    with torch.random.fork_rng(devices=devices), auxiliary_classifiers(run, network):
        yield


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Hide torch.compile's messages about this machine's toolchain from the user."""
    loggers = [logging.getLogger(name) for name in ("torch._inductor", "torch._dynamo", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
