"""What a run would be refused for later on, found out while it is planned: before there is a run folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnn_tl.heads.problem import class_weights
from cnn_tl.recipe import Recipe
from cnn_tl.recipe.rules import refuse_unreached_phases
from cnn_tl.training.session import Session


def refuse_unknown_classes(recipe: Recipe, classes: Sequence[str]) -> None:
    """Refuse weights for classes that the data does not have; without torch.

    Raises:
        RecipeError: there are some.
    """
    for key, setting in (("head", recipe.head.class_weights), ("train", recipe.train.class_weights or "none")):
        class_weights(setting, np.zeros(0, np.int64), classes, key=f"{key}.class_weights")


def refuse_what_cannot_train(session: Session) -> None:
    """Refuse what the loop could not do with this network on this device: its optimiser, its phases, its BatchNorm.

    Raises:
        UsageError: there is no such optimiser, or a setting means nothing to it; or the network has no part of a name.
        RecipeError: a phase of `model.unfreeze` is never reached.
        ResourceError: BatchNorm cannot be synchronised here.
    """
    recipe = session.recipe
    if recipe.mode == "freeze":
        return
    import torch

    from cnn_tl.networks.backbone import require_synchronisable
    from cnn_tl.optimisation.optim import make_optimizer
    from cnn_tl.optimisation.phases import Phases

    if recipe.model.bn == "sync":
        require_synchronisable(session.device)
    phases = Phases(session.network.model, recipe.model)
    refuse_unreached_phases(recipe.model, session.epochs)
    make_optimizer(session.network.model, recipe.train, torch.device("cpu"), phases.trains, lr=1e-3)
