"""Auxiliary classifiers: in the network while a training loop runs, and in nothing that is left of it.

They stand in the middle of the network and learn the same classes, so that what lies before them gets a gradient from
near by (Szegedy et al. 2014, sec. 5). Plans, features, validation, bundles and exports are of the network without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.seeds import seed_of
from cnn_tl.networks.classic.googlenet import AUXILIARY, GoogLeNet
from cnn_tl.networks.pretrained import state_dict
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.context import Session

_PREFIXES = tuple(f"{name}." for name in AUXILIARY)


@contextmanager
def auxiliary_classifiers(session: Session[LoopRecipe]) -> Iterator[None]:
    """Give the network its auxiliary classifiers inside the body, where the recipe weighs their losses.

    They start from what the weights file has of them; their last layers, of other classes, and those of a file without
    any from random weights, which are a function of the recipe's seed.

    Raises:
        ArtefactError: the weights file has auxiliary classifiers of another network.
    """
    weight = session.recipe.train.aux_weight
    if not weight:
        yield
        return
    model = session.network.model
    assert isinstance(model, GoogLeNet), "the recipe refuses aux_weight for other models"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(session.recipe.seed, "auxiliary"))
        model.add_auxiliary()
    start = "from the weights file, their last layers at random" if _load(session, model) else "at random"
    added = sum(p.numel() for name, p in model.named_parameters() if name.startswith(_PREFIXES))
    session.observer.note(
        f"{len(AUXILIARY)} auxiliary classifiers ({added:,} parameters) train too, with {weight:g} of the loss each; "
        f"they start {start}, and are dropped in the end"
    )
    try:
        yield
    finally:
        model.remove_auxiliary()


def _load(session: Session[LoopRecipe], model: GoogLeNet) -> bool:
    """Copy what the weights file has of the auxiliary classifiers into them; return whether it has any."""
    path = session.network.source.path
    found = state_dict.read(path) if path else {}
    found = {name: tensor for name, tensor in found.items() if name.startswith(_PREFIXES)}
    if not found:
        return False
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(_PREFIXES)}
    free = [name for name in own if ".fc2." in name or name.endswith(".num_batches_tracked")]
    fitting = {name: tensor for name, tensor in found.items() if name in own and tensor.shape == own[name].shape}
    wrong = [name for name in own | found if name not in fitting and name not in free]
    if wrong:
        raise ArtefactError(f"{session.card.weights}: the auxiliary classifiers do not fit googlenet in {wrong[0]}")
    model.load_state_dict(fitting, strict=False)
    return True
