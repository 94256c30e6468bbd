"""Auxiliary classifiers: part of the network only while a training loop runs.

They branch off the middle of the network and learn the same classes, which gives the layers before them a stronger
gradient (Szegedy et al. 2014, sec. 5). Plans, features, validation, bundles and exports use the network without them.
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
from cnn_tl.training.context import Run
from cnn_tl.training.lazy_network import LazyNetwork

_PREFIXES = tuple(f"{name}." for name in AUXILIARY)


@contextmanager
def auxiliary_classifiers(run: Run[LoopRecipe], network: LazyNetwork) -> Iterator[None]:
    """Add auxiliary classifiers to the network inside the body, if the recipe gives their losses a weight.

    Their weights come from the weights file if it has them. Their last layers, which depend on the classes, and layers
    that the file lacks start from random weights, a function of the recipe's seed.

    Raises:
        ArtefactError: the auxiliary classifiers in the weights file do not fit.
    """
    weight = run.recipe.train.aux_weight
    if not weight:
        yield
        return
    model = network.model
    assert isinstance(model, GoogLeNet), "the recipe refuses aux_weight for other models"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(run.recipe.seed, "auxiliary"))
        model.add_auxiliary()
    start = "from the weights file, their last layers at random" if _load(network, model) else "at random"
    added = sum(p.numel() for name, p in model.named_parameters() if name.startswith(_PREFIXES))
    run.observer.note(
        f"{len(AUXILIARY)} auxiliary classifiers ({added:,} parameters) train too, with {weight:g} of the loss each; "
        f"they start {start}, and are dropped in the end"
    )
    try:
        yield
    finally:
        model.remove_auxiliary()


def _load(network: LazyNetwork, model: GoogLeNet) -> bool:
    """Load the auxiliary classifiers from the weights file, as far as it has them; return whether it has any."""
    path = network.build().source.path
    found = state_dict.read(path) if path else {}
    found = {name: tensor for name, tensor in found.items() if name.startswith(_PREFIXES)}
    if not found:
        return False
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(_PREFIXES)}
    free = [name for name in own if ".fc2." in name or name.endswith(".num_batches_tracked")]
    fitting = {name: tensor for name, tensor in found.items() if name in own and tensor.shape == own[name].shape}
    wrong = [name for name in own | found if name not in fitting and name not in free]
    if wrong:
        raise ArtefactError(f"{network.info.weights}: the auxiliary classifiers do not fit googlenet in {wrong[0]}")
    model.load_state_dict(fitting, strict=False)
    return True
