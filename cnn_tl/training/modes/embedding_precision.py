"""Choose how a frozen network computes features of training images on this machine: precision, compiled or not.

On CUDA a rule decides; elsewhere the first run of a network measures it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cnn_tl.core.cpu import release_freed_memory
from cnn_tl.core.device import Precision, has_fast_bf16
from cnn_tl.core.errors import CnnTlError
from cnn_tl.features import speed
from cnn_tl.features.speed import Speeds, Way
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Run
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.step import precision as precisions


def choose_way(
    run: Run[FreezeRecipe], network: LazyNetwork, missing: Callable[[Way, Speeds], int], *, verify_device: bool
) -> tuple[Speeds, Way]:
    """Return the speeds of this machine, and the precision and compilation to use for training images.

    Args:
        missing: returns how many features the cache lacks if they are computed in a given way.
        verify_device: see `_speeds`.
    """
    speeds = _speeds(run, network, verify_device=verify_device)
    precision = speed.choose_precision(speeds, run.recipe.run.precision)
    wanted, may_try = run.recipe.run.compile, run.writes and network.cache_folder.is_dir()
    if may_try and speed.worth_trying_to_compile(speeds, precision, wanted, missing(Way(precision), speeds)):
        run.observer.note("many features are missing, so compiling the network may pay; trying for half a minute")
        tried = speed.measure_compiled(network.build(), network.device, speeds, precision)
        speeds = tried if _remember(run, network, tried) else speeds
    return speeds, speed.choose_way(speeds, precision, wanted, lambda way: missing(way, speeds))


def _speeds(run: Run[FreezeRecipe], network: LazyNetwork, *, verify_device: bool) -> Speeds:
    """Return the speeds of this machine with this network; measure what no earlier run has measured.

    If measurements cannot be stored, a fixed rule chooses the precision: a new measurement might choose differently,
    and the same recipe would then give other weights.

    Args:
        verify_device: check that the stored speeds are of this device, which needs torch. Without it `embed` checks
            the device before it computes anything.
    """
    recipe = run.recipe
    needed: list[Precision] = ["fp32", "bf16"] if recipe.run.precision == "bf16" else ["fp32"]
    known = speed.recall(network.cache_folder, recipe.run.device)
    if known is not None and not verify_device and not known.lacks(needed):
        return known
    if known is not None and not known.is_of(network.device):
        known = None
    if known is not None and not known.lacks(needed):
        return known
    if network.device.type == "cuda":
        speeds = speed.by_rule(network.device)
        if run.writes:
            _remember(run, network, speeds)  # a run with all features in the cache need not load torch to know the GPU
        return speeds
    if known is None and has_fast_bf16(network.device):
        needed = ["fp32", "bf16"]
    with run.observer.task("measuring this machine", None):
        speeds = speed.measure(network.build(), network.device, precisions=needed, known=known)
    release_freed_memory()
    will_be_remembered = _remember(run, network, speeds) if run.writes else recipe.features.cache
    if known is None and not will_be_remembered:
        return replace(speeds, precision=precisions.by_rule(network.build(), network.device))
    return speeds


def _remember(run: Run[FreezeRecipe], network: LazyNetwork, speeds: Speeds) -> bool:
    """Store the speeds for later runs; return whether that was possible."""
    if not network.cache_folder.is_dir():
        return False
    try:
        speed.remember(network.cache_folder, run.recipe.run.device, speeds)
    except CnnTlError as error:
        run.observer.note(f"the measured speeds are not stored: {error}")
        return False
    return True
