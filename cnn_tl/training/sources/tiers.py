"""The tiers in which sources can lie, from the fastest to the one that needs no memory, and which of them has room."""

from __future__ import annotations

import sys
from typing import Literal, get_args

import torch

from cnn_tl.core.formatting import percent, readable_bytes
from cnn_tl.core.processes import World
from cnn_tl.training.context import GB, Run
from cnn_tl.training.image_store import ImageStore
from cnn_tl.training.views.agreement import agrees

Tier = Literal["device", "pinned", "disk", "decode"]
TIERS: tuple[Tier, ...] = get_args(Tier)

SHARE = 0.4
"""Maximum share of the device's free memory for sources. The rest is for training, and for what others start there."""


def draws_on_device(run: Run, device: torch.device) -> bool:
    """Return whether random views are tensor operations on the device, which need sources there.

    On a CPU threads draw them with Pillow, which is several times as fast, unless the recipe names a tier; likewise on
    MPS if it lacks an operation.
    """
    wanted, settings = run.recipe.run.sources, run.augmentation
    if settings is None or wanted == "threads":
        return False
    if wanted == "auto" and device.type == "mps":
        return agrees(device, settings)
    return wanted != "auto" or device.type == "cuda"


def candidates(run: Run) -> tuple[Tier, ...]:
    """Return the tiers to try in this order: from the one that the recipe names, or from the fastest."""
    wanted = run.recipe.run.sources
    return TIERS[TIERS.index(wanted) :] if wanted in TIERS else TIERS


def expected_tier(run: Run, store: ImageStore, nbytes: int, device: torch.device) -> Tier:
    """Return the tier of sources of this size once all images are in the cache, for a plan."""
    has_room: dict[Tier, bool] = {
        "device": no_room_on_device(nbytes, device, run.world) is None,
        "pinned": no_room_in_memory(nbytes, store.memory.left) is None,
        "disk": store.are_kept,
        "decode": True,
    }
    return next(tier for tier in candidates(run) if has_room[tier])


def no_room_on_device(nbytes: int, device: torch.device, world: World) -> str | None:
    """Return why sources of this size are too large for the device's memory, or None if they are not."""
    most = most_on_device(device, world)
    if nbytes <= most:
        return None
    return f"{readable_bytes(nbytes)} are more than {percent(SHARE, 0)} of what is free ({readable_bytes(most)})"


def no_room_in_memory(nbytes: int, left: int) -> str | None:
    """Return why sources of this size are too large for the host memory, or None if they are not."""
    if nbytes <= left:
        return None
    return f"{readable_bytes(nbytes)} are more than data.memory_gb allows ({readable_bytes(left)})"


def most_on_device(device: torch.device, world: World, share: float = SHARE) -> int:
    """Return how many bytes of images the device may hold for this process, a share of its free memory.

    The processes of a run that share a device divide its free memory evenly. On a CPU there is no limit: only tests
    name a tier there.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    else:
        return sys.maxsize
    sharing = -(-world.local_size // max(1, torch.cuda.device_count()))
    return int(share * free) // sharing


def memory_bytes(run: Run) -> int:
    """Return this process's share of `data.memory_gb`, in bytes."""
    return int(run.recipe.data.memory_gb * GB) // run.world.local_size
