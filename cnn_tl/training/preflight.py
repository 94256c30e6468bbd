"""Preflight checks: fail before a run folder exists."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from cnn_tl.core.errors import UsageError
from cnn_tl.heads.problem import class_weights
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.cross_key_rules import refuse_unreached_phases
from cnn_tl.recipe.resolved import FinetuneRecipe, LoopRecipe
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.step.schedule import loop_length


def refuse_unknown_classes(recipe: ResolvedRecipe, classes: Sequence[str]) -> None:
    """Refuse class weights for classes that the data does not have; needs no torch.

    Raises:
        RecipeError: such a class is in the recipe.
    """
    if not isinstance(recipe, FinetuneRecipe):
        class_weights(recipe.head.class_weights, np.zeros(0, np.int64), classes, key="head.class_weights")
    if isinstance(recipe, LoopRecipe):
        class_weights(recipe.train.class_weights, np.zeros(0, np.int64), classes, key="train.class_weights")


def refuse_untrainable(run: Run[LoopRecipe], dataset: Dataset[LoopRecipe], network: LazyNetwork) -> None:
    """Refuse an optimizer, phases or BatchNorm that the loop could not use with this network on this device.

    Raises:
        UsageError: there is no such optimizer, or a setting has no effect on it; or the network lacks a named part; or
            BatchNorm would train on a single value per channel; or the network does not return one logit per class.
        RecipeError: a phase of `model.unfreeze` is never reached.
        ResourceError: BatchNorm cannot be synchronised here.
    """
    import torch

    from cnn_tl.networks.backbone import require_synchronisable
    from cnn_tl.training.step.optimizer import make_optimizer
    from cnn_tl.training.step.unfreezing import Phases

    recipe = run.recipe
    if recipe.model.bn == "sync":
        require_synchronisable(network.device)
    phases, epochs = Phases(network.model, recipe.model), loop_length(run, dataset.manifest).epochs
    refuse_unreached_phases(recipe.model, epochs)
    make_optimizer(network.model, recipe.train, torch.device("cpu"), phases.trains, lr=1e-3)
    if recipe.model.bn != "eval" and _smallest_forward(run, dataset) == 1:
        _refuse_single_value_statistics(run, network, epochs)
    _refuse_no_logits(run, dataset, network)


def _smallest_forward(run: Run[LoopRecipe], dataset: Dataset[LoopRecipe]) -> int:
    """Return the smallest number of images in any forward pass of the run."""
    from cnn_tl.training.step.gradients import parts_in_step

    images = len(dataset.manifest.of("train"))
    micro_batch, processes = run.recipe.train.micro_batch or run.batch_size + 1, run.world.size

    def smallest(batch: int) -> int:
        return max(1, batch // processes // parts_in_step(batch, processes, micro_batch))

    size, more = divmod(images, loop_length(run, dataset.manifest).steps_per_epoch)
    return min(smallest(batch) for batch in {size, size + (more > 0)})


def _refuse_single_value_statistics(run: Run[LoopRecipe], network: LazyNetwork, epochs: int) -> None:
    """Refuse to train BatchNorm on a single image if a layer has only one value per channel for it.

    Raises:
        UsageError: there is such a layer, and its statistics would be updated.
    """
    import torch

    from cnn_tl.networks import freeze_policies
    from cnn_tl.training.step.gradients import is_single_value_error
    from cnn_tl.training.step.unfreezing import Phases

    model = copy.deepcopy(network.model).cpu()
    Phases(model, run.recipe.model).enter(epochs)  # the last phase trains all that any does
    freeze_policies.train_mode(model)
    spec = network.info.preprocessing
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model(torch.zeros(1, 3, spec.height, spec.width))
    except ValueError as error:
        if not is_single_value_error(error):
            raise
        settings = run.recipe.train
        larger = "train.micro_batch" if settings.micro_batch and run.batch_size > 1 else "--batch-size"
        held = "" if run.recipe.mode == "scratch" else ", or --set model.bn=eval"
        raise UsageError(
            f"a single image of {spec.height} x {spec.width} px would pass the network alone, and batch "
            f"normalisation cannot train on one value; use a larger {larger} or --image-size{held}"
        ) from error


def _refuse_no_logits(run: Run[LoopRecipe], dataset: Dataset[LoopRecipe], network: LazyNetwork) -> None:
    """Run the network on one image; refuse it if it fails or does not return one logit per class.

    Raises:
        UsageError: it fails, or returns something else.
    """
    import torch

    from cnn_tl.core.device import is_out_of_memory
    from cnn_tl.networks.backbone import tried

    if run.fits_head:  # the network has been run already, when it was built
        return
    model, name, spec = network.model, network.info.name, network.info.preprocessing
    was_training = model.training
    fails = f"{name} cannot answer for an image of {spec.height} x {spec.width} px"
    x_NCHW = torch.zeros(1, 3, spec.height, spec.width, device=next(model.parameters()).device)
    model.eval()
    try:
        with torch.inference_mode(), tried(fails):
            logits = model(x_NCHW)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return  # the loop tries smaller batches and reports what fits
    finally:
        model.train(was_training)
    wanted = (1, len(dataset.manifest.classes))
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != wanted:
        raise UsageError(
            f"{name} does not answer with one number for each class, which training needs; use another --model"
        )
