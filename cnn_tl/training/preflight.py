"""What a run would be refused for later on, found out while it is planned: before there is a run folder."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from cnn_tl.core.errors import UsageError
from cnn_tl.heads.problem import class_weights
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import FinetuneRecipe, LoopRecipe
from cnn_tl.recipe.rules import refuse_unreached_phases
from cnn_tl.training.context import Session
from cnn_tl.training.step.schedule import batches_in_epoch

FITS_A_HEAD = ("freeze", "lp-ft", "auto")
"""The modes that fit a head on frozen features."""


def refuse_unknown_classes(recipe: ResolvedRecipe, classes: Sequence[str]) -> None:
    """Refuse weights for classes that the data does not have; without torch.

    Raises:
        RecipeError: there are some.
    """
    if not isinstance(recipe, FinetuneRecipe):
        class_weights(recipe.head.class_weights, np.zeros(0, np.int64), classes, key="head.class_weights")
    if isinstance(recipe, LoopRecipe):
        class_weights(recipe.train.class_weights, np.zeros(0, np.int64), classes, key="train.class_weights")


def refuse_what_cannot_train(session: Session[LoopRecipe]) -> None:
    """Refuse what the loop could not do with this network on this device: its optimiser, its phases, its BatchNorm.

    Raises:
        UsageError: there is no such optimiser, or a setting means nothing to it; or the network has no part of a name;
            or its BatchNorm would have a single value to train on.
        RecipeError: a phase of `model.unfreeze` is never reached.
        ResourceError: BatchNorm cannot be synchronised here.
    """
    import torch

    from cnn_tl.networks.backbone import require_synchronisable
    from cnn_tl.training.step.optimizer import make_optimizer
    from cnn_tl.training.step.unfreezing import Phases

    recipe = session.recipe
    if recipe.model.bn == "sync":
        require_synchronisable(session.device)
    phases = Phases(session.network.model, recipe.model)
    refuse_unreached_phases(recipe.model, session.epochs)
    make_optimizer(session.network.model, recipe.train, torch.device("cpu"), phases.trains, lr=1e-3)
    if recipe.model.bn != "eval" and _smallest_part(session) == 1:
        _refuse_statistics_of_one_value(session)
    _refuse_what_gives_no_logits(session)


def _refuse_what_gives_no_logits(session: Session[LoopRecipe]) -> None:
    """Refuse a network that fails, or answers with something else than the loss takes, by trying it on one image.

    Raises:
        UsageError: it does.
    """
    import torch

    from cnn_tl.networks.backbone import tried
    from cnn_tl.training.step.gradients import is_out_of_memory

    if session.recipe.mode in FITS_A_HEAD:  # it was tried when it was built
        return
    network, spec = session.network, session.card.preprocessing
    model, was_training = network.model, network.model.training
    fails = f"{network.name} cannot answer for an image of {spec.height} x {spec.width} px"
    x_NCHW = torch.zeros(1, 3, spec.height, spec.width, device=next(model.parameters()).device)
    model.eval()
    try:
        with torch.inference_mode(), tried(fails):
            logits = model(x_NCHW)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return  # the loop, which tries smaller parts, says what fits
    finally:
        model.train(was_training)
    wanted = (1, len(session.manifest.classes))
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != wanted:
        raise UsageError(
            f"{network.name} does not answer with one number for each class, which training needs; use another --model"
        )


def _smallest_part(session: Session[LoopRecipe]) -> int:
    """Return how many images pass the network together at the least."""
    from cnn_tl.training.step.gradients import parts_in_step

    places = len(session.manifest.of("train"))
    micro_batch, processes = session.recipe.train.micro_batch or session.batch_size + 1, session.world.size

    def least(batch: int) -> int:
        return max(1, batch // processes // parts_in_step(batch, processes, micro_batch))

    smaller, more = divmod(places, batches_in_epoch(places, session.batch_size))
    return min(least(batch) for batch in {smaller, smaller + (more > 0)})


def _refuse_statistics_of_one_value(session: Session[LoopRecipe]) -> None:
    """Refuse to normalise a single image by its own statistics where a layer has but one value of each channel.

    Raises:
        UsageError: there is such a layer, and its statistics are to move.
    """
    import torch

    from cnn_tl.networks import freeze
    from cnn_tl.training.step.gradients import is_of_one_value
    from cnn_tl.training.step.unfreezing import Phases

    model = copy.deepcopy(session.network.model).cpu()
    Phases(model, session.recipe.model).enter(session.epochs)  # the last phase trains all that any does
    freeze.train_mode(model)
    spec = session.card.preprocessing
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model(torch.zeros(1, 3, spec.height, spec.width))
    except ValueError as error:
        if not is_of_one_value(error):
            raise
        settings = session.recipe.train
        larger = "train.micro_batch" if settings.micro_batch and session.batch_size > 1 else "--batch-size"
        held = "" if session.recipe.mode == "scratch" else ", or --set model.bn=eval"
        raise UsageError(
            f"a single image of {spec.height} x {spec.width} px would pass the network alone, and batch "
            f"normalisation cannot train on one value; use a larger {larger} or --image-size{held}"
        ) from error
