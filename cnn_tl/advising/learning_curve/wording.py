"""What a learning curve says, in sentences."""

from __future__ import annotations

from cnn_tl.advising.learning_curve.curve import Curve, Outlook
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, percent, points

LITTLE = 0.005
"""A gain by twice as many images that is too small to be worth labelling them."""

UNCLEAR = 0.05
"""A gain that must be excluded before more images are said to bring little."""

UNEVEN = 1.5
"""How many times its even share the most frequent class may have, and all still be called about as many."""

MOST_NAMED = 3
"""Classes in a sentence."""


def verdict(curve: Curve) -> str:
    """Return the one sentence: what twice as many images would bring."""
    now = curve.now
    if now.interval[0] <= curve.baseline < 1:
        return (
            f"No curve can be told from chance: {percent(now.accuracy)} are right, and always giving the most frequent "
            f"answer is right on {percent(curve.baseline)}, so another --model may help sooner than more images."
        )
    if not curve.outlooks:
        return (
            f"There are too few images for a curve: {percent(now.accuracy)} are right "
            f"({percent(now.interval[0])} to {percent(now.interval[1])})."
        )
    twice = curve.outlooks[0]
    if now.accuracy == 1:
        return (
            f"All {counted(curve.judged, 'image')} are right already, so more images would only show how often the "
            f"model is wrong: at most {percent(1 - now.interval[0])} of the time, with 95% confidence."
        )
    brings, gain = f"{percent(twice.accuracy)} ({_range(twice.interval)})", points(twice.gain)
    if twice.gain < LITTLE and twice.gain_interval[1] >= UNCLEAR:
        return (
            f"{counted(curve.judged, 'image')} are too few to tell: twice as many (about {twice.images:,}) may bring "
            f"nothing, or up to {points(twice.gain_interval[1])}."
        )
    if twice.gain < LITTLE:
        many = f"with twice as many (about {twice.images:,})"
        return f"More images of the same kind would bring little: {brings} {many}, {gain}."
    return f"Twice as many images (about {twice.images:,}) would bring {brings}, {gain}."


def check_line(curve: Curve) -> str:
    """Return how well the first half foretold the whole."""
    check = curve.check
    if check is None:
        return "there are too few sizes below half of the images to check the extrapolation"
    inside = check.interval[0] <= check.came_to <= check.interval[1]
    outside = "" if inside else ", outside of that interval, so trust the figures above less"
    return (
        f"from the first half ({check.half:,} of {check.images:,} images) it foretold {percent(check.foretold)} "
        f"({_range(check.interval)}), and it came to {percent(check.came_to)}{outside}"
    )


def what_was_measured(curve: Curve) -> str:
    """Return on which images, and how."""
    together = ", groups and copies held together" if curve.grouped else ""
    most = curve.points[-1].images
    upto = f"up to {most:,} of {curve.training:,} training images" if most < 0.98 * curve.training else f"{most:,}"
    return (
        f"{counted(curve.images, 'image')} of {counted(len(curve.classes), 'class')}: heads fitted to {upto}, "
        f"{curve.draws} draws of each size; each image is judged by heads that have not seen it{together}"
    )


def gains_line(curve: Curve) -> str:
    """Return the gains by more images, with their intervals."""
    gains = [
        f"{one.times} times as many images {points(one.gain)} ({points(one.gain_interval[0], unit='')} to "
        f"{points(one.gain_interval[1], unit='')})"
        for one in curve.outlooks
    ]
    return ", ".join(gains)


def classes_line(curve: Curve) -> str:
    """Return which classes gained most in the last doubling, if that is not chance."""
    certain = sorted((one for one in curve.gains if one.is_certain), key=lambda one: (-one.gain, one.name))
    if not certain:
        return "no class gained more from the second half of the images than chance explains"
    named = [f"{printable(one.name)} ({points(one.gain, unit='')})" for one in certain[:MOST_NAMED]]
    more = f" and {len(certain) - MOST_NAMED:,} more" if len(certain) > MOST_NAMED else ""
    return f"the second half of the images raised the recall, beyond chance, of {', '.join(named)}{more}"


def cost_line(curve: Curve, outlook: Outlook) -> str:
    """Return how many images must be labelled for it."""
    more = outlook.images - curve.training
    if len(curve.classes) == 1:
        return f"{more:,} more"
    if curve.baseline * len(curve.classes) > UNEVEN:
        return f"{more:,} more, with the classes as frequent as now"
    return f"{more:,} more, about {round(more / len(curve.classes)):,} of each class"


def _range(interval: tuple[float, float]) -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}"
