"""L-BFGS for several convex problems at once, in the compact form (Byrd, Nocedal and Schnabel 1994, theorem 2.2).

The vectors stay where they are computed; a step needs matrix products with the past steps, and one read of a few
numbers a problem, from which the host works out the next direction. So a GPU waits once in a step.

Shapes: F problems of P variables, m past steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays

Objective = Callable[[Array], tuple[Array, Array]]
"""Maps x [F, P] to the objectives [F] and their gradients [F, P], both float64."""

Inverse = Callable[[Array], Array]
"""Multiplies [F, P], or [F, m, P], by an approximation of the inverse Hessian, which is symmetric."""

Numbers = NDArray[np.float64]

ARMIJO, CURVATURE = 1e-4, 0.8
"""The share of the expected decrease that a step must reach, or else (within rounding) the share of the slope."""

ROUNDING = 1e-6
"""The relative increase of an objective that float32 may feign."""

AT_ONCE = 8
"""Past steps that are adapted at once, each with a few more vectors of memory."""

SHORTEST = 1e-6
"""The share of a full step below which rounding is all that is left."""


@dataclass
class Minimum:
    """The minimum x [F, P], and the number of evaluations."""

    x: Array
    evaluations: int


class History:
    """The past m steps: differences of x, of gradients, and of gradients times the inverse.

    A problem whose step was rejected has zeros in its place, with 1 on the diagonal of `sy`.
    """

    def __init__(self, arrays: Arrays, problems: int, size: int, most: int, precision: object) -> None:
        """Make room for `most` steps."""
        self.arrays, self.most = arrays, most
        self.s, self.y, self.v = (arrays.zeros((problems, most, size), precision) for _ in range(3))
        self.slots: list[int] = []  # from the oldest step to the newest
        self.sy = np.zeros((problems, most, most))
        self.yv = np.zeros((problems, most, most))

    def dots(self, gradient: Array) -> tuple[Array, Array]:
        """Return the products of all steps, and of `v`, with the gradient, [F, used slots] each."""
        column, used = self.arrays.cast(gradient, self.s.dtype)[:, :, None], len(self.slots)
        return (self.s[:, :used] @ column)[..., 0], (self.v[:, :used] @ column)[..., 0]

    def append(self, s: Array, y: Array) -> None:
        """Add steps [F, n, P] without products, which `rebase` must compute before they are used."""
        slots = range(len(self.slots), len(self.slots) + s.shape[1])
        self.s[:, slots.start : slots.stop], self.y[:, slots.start : slots.stop] = s, y
        self.slots += slots

    def next_slot(self) -> int:
        """Return the slot of the next step: an unused one, or that of the oldest step."""
        slot = len(self.slots) if len(self.slots) < self.most else self.slots.pop(0)
        self.slots.append(slot)
        return slot

    def rebase(self, inverse: Inverse, change: Callable[[Array], Array]) -> None:
        """Adapt the past steps to a Hessian that has changed by `change`, a linear function, and to a new inverse."""
        used = len(self.slots)
        if not used:
            return
        xp, curved = self.arrays.xp, []
        for first in range(0, used, AT_ONCE):
            s, y, v = (pairs[:, first : min(first + AT_ONCE, used)] for pairs in (self.s, self.y, self.v))
            y += change(s)
            curved.append(xp.sum(s * y, 2) > 0)  # of a convex function: all but empty steps, or with rounding
            for pairs in (s, y):
                pairs *= curved[-1][..., None]
            v[:] = inverse(y)
        s, y, v = self.s[:, :used], self.y[:, :used], self.v[:, :used]
        across = xp.swapaxes(y, 1, 2)
        self.sy[:, :used, :used] = self.arrays.host(s @ across)
        self.yv[:, :used, :used] = self.arrays.host(v @ across)
        each = np.arange(used)
        self.sy[:, each, each] += ~self.arrays.host(xp.concatenate(curved, 1))

    def coefficients(self, sg: Numbers, vg: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return [F], [F, used] and [F, used]: the step is -(a * h + b @ s + c @ v), h being the inverse's gradient."""
        order = np.array(self.slots)
        at = np.ix_(np.arange(len(sg)), order, order)
        upper, yv = np.triu(self.sy[at]), self.yv[at]
        diagonal, own = upper.diagonal(0, 1, 2), yv.diagonal(0, 1, 2)
        scale_F = np.ones(len(sg))
        for step in range(len(order)):  # that of the newest step which is not empty
            filled = own[:, step] > 0
            scale_F[filled] = diagonal[filled, step] / own[filled, step]
        p = np.linalg.solve(upper, sg[:, order, None])
        inner = diagonal[..., None] * p + scale_F[:, None, None] * (yv @ p - vg[:, order, None])
        b, c = np.empty_like(sg), np.empty_like(sg)
        lower = upper.transpose(0, 2, 1)[:, ::-1, ::-1]  # upper too: elimination then needs no pivots
        b[:, order] = np.linalg.solve(lower, inner[:, ::-1])[:, ::-1, 0]
        c[:, order] = -scale_F[:, None] * p[..., 0]
        return scale_F, b, c


def minimise(
    arrays: Arrays,
    objective: Objective,
    inverse: Inverse,
    x: Array,
    history: History,
    *,
    tolerance: float,
    most: int,
    check: Callable[[], None],
) -> Minimum:
    """Minimise F convex objectives, which must be positive, from x [F, P], float64.

    Args:
        history: of earlier, similar problems; the steps are added.
        tolerance: a problem is solved when its next step promises less than this share of its objective.
        most: the number of evaluations at most.
        check: called before each evaluation.
    """
    check()
    xp = arrays.xp
    value, gradient = objective(x)
    h = inverse(gradient)
    sg, vg = history.dots(gradient)
    used = len(history.slots)
    read = arrays.read([value, _dot(xp, gradient, h), sg, vg])
    f, gh, sg, vg = read[:, 0], read[:, 1], read[:, 2 : 2 + used], read[:, 2 + used :]
    length, done = np.ones(len(f)), np.zeros(len(f), bool)
    direction, slope = _direction(arrays, history, h, gh, sg, vg)
    evaluations = 1
    while evaluations < most:
        done |= np.maximum(-slope, gh) / 2 <= tolerance * f
        if done.all():
            break
        check()
        step = np.where(done, 0.0, length)
        new = x + arrays.put(step)[:, None] * direction
        new_value, new_gradient = objective(new)
        evaluations += 1
        new_h = inverse(new_gradient)
        new_sg, new_vg = history.dots(new_gradient)
        dots = [_dot(xp, new_gradient, other) for other in (direction, new_h, h)]
        read = arrays.read([new_value, *dots, new_sg, new_vg])
        (new_f, new_slope, new_gh, cross), rest = read[:, :4].T, read[:, 4:]
        with np.errstate(invalid="ignore"):
            lower = new_f <= f + ARMIJO * step * slope
            flat = (new_f <= f * (1 + ROUNDING)) & (new_slope <= -CURVATURE * slope)
        taken = (lower | flat) & ~done
        shortened = np.where(new_slope > 0, np.clip(-slope / np.maximum(new_slope - slope, 1e-300), 0.1, 0.5), 0.5)
        length = np.where(taken, 1.0, np.where(done, length, length * shortened))
        done |= length < SHORTEST
        if not taken.any():
            continue
        used = len(history.slots)
        sy = step * (new_slope - slope)
        kept = taken & (sy > 0)
        slot = history.next_slot()
        mask, keep = arrays.put(taken)[:, None], arrays.put(kept)[:, None]
        zero = arrays.zeros((), arrays.double)
        history.s[:, slot] = xp.where(keep, new - x, zero)
        history.y[:, slot] = xp.where(keep, new_gradient - gradient, zero)
        history.v[:, slot] = xp.where(keep, new_h - h, zero)
        grown_sg, grown_vg = (np.zeros((len(f), len(history.slots))) for _ in range(2))
        old_sg, old_vg = grown_sg.copy(), grown_vg.copy()
        grown_sg[:, :used], grown_vg[:, :used] = rest[:, :used], rest[:, used:]
        old_sg[:, :used], old_vg[:, :used] = sg, vg
        own = np.arange(len(history.slots)) == slot
        k = kept[:, None]
        grown_sg = np.where(own, np.where(k, (step * new_slope)[:, None], 0), grown_sg)
        grown_vg = np.where(own, np.where(k, (new_gh - cross)[:, None], 0), grown_vg)
        old_sg = np.where(own, np.where(k, (step * slope)[:, None], 0), old_sg)
        old_vg = np.where(own, np.where(k, (cross - gh)[:, None], 0), old_vg)
        size = len(history.slots)
        history.sy[:, :size, slot] = np.where(k, grown_sg - old_sg, 0)
        history.sy[:, slot, :size] = np.where(own, np.where(k, sy[:, None], 1), 0)
        history.sy[:, slot, slot] = np.where(kept, sy, 1)
        history.yv[:, :size, slot] = history.yv[:, slot, :size] = np.where(k, grown_vg - old_vg, 0)
        t = taken[:, None]
        x, gradient, h = (
            xp.where(mask, after, before) for after, before in ((new, x), (new_gradient, gradient), (new_h, h))
        )
        f, gh = np.where(taken, new_f, f), np.where(taken, new_gh, gh)
        sg, vg = np.where(t, grown_sg, old_sg), np.where(t, grown_vg, old_vg)
        new_direction, fresh_slope = _direction(arrays, history, h, gh, sg, vg)
        direction, slope = xp.where(mask, new_direction, direction), np.where(taken, fresh_slope, slope)
    return Minimum(x, evaluations)


def _direction(
    arrays: Arrays, history: History, h: Array, gh: Numbers, sg: Numbers, vg: Numbers
) -> tuple[Array, Numbers]:
    """Return the next full step [F, P] and the objective's slope along it, [F]."""
    used = len(history.slots)
    if not used:
        return -h, -gh
    a, b, c = history.coefficients(sg, vg)
    slope = -(a * gh + (b * sg).sum(1) + (c * vg).sum(1))
    if (uphill := ~(slope < 0)).any():  # rounding has spoilt the past steps
        b[uphill], c[uphill], slope[uphill] = 0, 0, -(a * gh)[uphill]
    numbers = arrays.put(-np.concatenate([a[:, None], b, c], 1))
    precision = history.s.dtype
    ours, theirs = (arrays.cast(numbers[:, None, 1 + at : 1 + at + used], precision) for at in (0, used))
    return numbers[:, :1] * h + (ours @ history.s[:, :used])[:, 0] + (theirs @ history.v[:, :used])[:, 0], slope


def _dot(xp: object, one: Array, other: Array) -> Array:
    return xp.sum(one * other, 1)  # type: ignore[attr-defined]
