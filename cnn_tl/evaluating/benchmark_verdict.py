"""What limits training and mode freeze on a machine, by the figures of its benchmark, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from cnn_tl.core.formatting import percent, rate

NEAR = 0.9
"""From this share of its limit on, a stage is said to reach it."""

CONTRADICTION = 1.25
"""A stage that is this many times as fast as its limit was measured while the machine did something else, or not."""

_AGAIN = "other programs disturb the figures; measure again on an idle machine"


class Figure(Protocol):
    """A stage and its figure; see `StageSpeed`."""

    @property
    def stage(self) -> str:
        """Its name."""

    @property
    def value(self) -> float | None:
        """The figure, in the unit of the stage; None if it was not measured."""


def verdict(stages: Iterable[Figure], engine: str, device: str) -> tuple[str, ...]:
    """Return one sentence about training and one about mode freeze, as far as they were measured."""
    found = {one.stage: one.value for one in stages if one.value}
    return tuple(filter(None, (_of_training(found, device), _of_freeze(found, engine, device))))


def _of_training(found: dict[str, float], device: str) -> str:
    ready, reached = found.get("training step, tensors ready"), found.get("training step, from images")
    views = next((value for name, value in found.items() if name.startswith("random views")), None)
    if ready is None or reached is None:
        return ""
    if reached > CONTRADICTION * ready:
        return f"training was faster from images than without reading them: {_AGAIN}"
    share = f"training reaches {percent(min(reached / ready, 1), 0)} of the {rate(ready)} that {_name(device)} can do"
    if reached >= NEAR * ready:
        return f"{share}: it is limited by the network itself; {_smaller(device)}"
    if device == "cpu":
        return f"{share}: decoding and random views need the same cores; {_smaller(device)}"
    if views is not None and views < ready / NEAR:
        return f"{share}: random views limit it ({rate(views, 'views')}); larger batches, or augment.policy: none"
    return f"{share}: the way to the device limits it; a larger --batch-size launches less often"


def _of_freeze(found: dict[str, float], engine: str, device: str) -> str:
    forward, reached = found.get(f"forward pass, {engine}"), found.get(f"embedding, {engine}")
    decoding = max((value for name, value in found.items() if name.startswith("decode")), default=None)
    if forward is None or reached is None or decoding is None:
        return ""
    if reached > CONTRADICTION * min(forward, decoding):
        return f"embedding was faster than a part of it: {_AGAIN}"
    share = f"mode freeze embeds {rate(reached)}"
    if device == "cpu" and reached < NEAR * min(forward, decoding):
        return f"{share}: decoding and the forward pass need the same cores; {_smaller(device)}"
    if decoding < forward:
        return f"{share}: decoding limits it ({rate(decoding)}); smaller files, or more cores, would be faster"
    return f"{share}: the forward pass limits it ({rate(forward)}); {_smaller(device)}"


def _name(device: str) -> str:
    return {"cpu": "this CPU", "cuda": "this GPU"}.get(device, "this device")


def _smaller(device: str) -> str:
    return f"a smaller --model or --image-size{' or a GPU' if device == 'cpu' else ''} would be faster"
