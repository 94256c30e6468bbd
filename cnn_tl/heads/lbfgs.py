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


@dataclass
class _Point:
    """Where F problems are.

    Attributes:
        x, gradient: [F, P].
        h: the inverse's gradient, [F, P].
        f: the objectives, [F].
        gh: the products of gradients and h, [F].
        sg, vg: the products of gradients with the past steps, and with `v`, [F, used slots].
    """

    x: Array
    gradient: Array
    h: Array
    f: Numbers
    gh: Numbers
    sg: Numbers
    vg: Numbers

    @property
    def vectors(self) -> tuple[Array, Array, Array]:
        return self.x, self.gradient, self.h


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

    def add(
        self,
        taken: NDArray[np.bool_],
        step: Numbers,
        old: _Point,
        new: _Point,
        slope: Numbers,
        new_slope: Numbers,
        cross: Numbers,
    ) -> None:
        """Add the steps that were taken, and to both points their products with these.

        Args:
            taken: whether a problem's step was taken, [F].
            step: its share of a full step, [F].
            slope, new_slope: of the objective along the full step, before and after, [F].
            cross: the products of the new gradient and the old `h`, [F].
        """
        sy = step * (new_slope - slope)
        kept = taken & (sy > 0)  # with rounding, not all are
        used, slot = len(self.slots), self.next_slot()
        for pairs, after, before in zip((self.s, self.y, self.v), new.vectors, old.vectors, strict=True):
            pairs[:, slot] = after - before
            if not kept.all():
                pairs[:, slot] *= self.arrays.cast(self.arrays.put(kept), pairs.dtype)[:, None]
        if slot == used:
            for point in (old, new):
                point.sg, point.vg = (np.pad(dots, ((0, 0), (0, 1))) for dots in (point.sg, point.vg))
        size, kept_F1 = len(self.slots), kept[:, None]
        old.sg[:, slot], new.sg[:, slot] = step * slope * kept, step * new_slope * kept
        old.vg[:, slot], new.vg[:, slot] = (cross - old.gh) * kept, (new.gh - cross) * kept
        self.sy[:, slot, :size] = 0
        self.sy[:, :size, slot] = np.where(kept_F1, new.sg - old.sg, 0)
        self.sy[:, slot, slot] = np.where(kept, sy, 1)
        self.yv[:, :size, slot] = self.yv[:, slot, :size] = np.where(kept_F1, new.vg - old.vg, 0)

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

    def learnt(self, inverse: Inverse) -> Inverse:
        """Return the inverse Hessian that the steps of the only problem amount to: a function of vectors [n, P].

        Args:
            inverse: the one with which the steps were added.
        """
        arrays, order = self.arrays, np.array(self.slots)
        if not len(order):
            return lambda vectors: inverse(vectors[None])[0]
        upper, yv = np.triu(self.sy[0][np.ix_(order, order)]), self.yv[0][np.ix_(order, order)]
        scale = _scale(upper.diagonal()[None], yv.diagonal()[None])[0]
        inverted = np.linalg.inv(upper)
        across = -scale * inverted
        middle = np.block([
            [inverted.T @ (np.diag(upper.diagonal()) + scale * yv) @ inverted, across.T],
            [across, np.zeros_like(yv)],
        ])  # fmt: skip
        middle, steps = arrays.put(middle), arrays.xp.concatenate([self.s[0, self.slots], self.v[0, self.slots]])

        def apply(vectors: Array) -> Array:
            along = arrays.cast(arrays.cast(vectors, steps.dtype) @ steps.T, arrays.double) @ middle
            return scale * inverse(vectors[None])[0] + arrays.cast(
                arrays.cast(along, steps.dtype) @ steps, vectors.dtype
            )

        return apply

    def coefficients(self, sg: Numbers, vg: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return [F], [F, used] and [F, used]: the step is -(a * h + b @ s + c @ v), h being the inverse's gradient."""
        order = np.array(self.slots)
        at = np.ix_(np.arange(len(sg)), order, order)
        upper, yv = np.triu(self.sy[at]), self.yv[at]
        diagonal, own = upper.diagonal(0, 1, 2), yv.diagonal(0, 1, 2)
        scale_F = _scale(diagonal, own)
        p = np.linalg.solve(upper, sg[:, order, None])
        inner = diagonal[..., None] * p + scale_F[:, None, None] * (yv @ p - vg[:, order, None])
        b, c = np.empty_like(sg), np.empty_like(sg)
        lower = upper.transpose(0, 2, 1)[:, ::-1, ::-1]  # upper too: elimination then needs no pivots
        b[:, order] = np.linalg.solve(lower, inner[:, ::-1])[:, ::-1, 0]
        c[:, order] = -scale_F[:, None] * p[..., 0]
        return scale_F, b, c


def _scale(sy_Fm: Numbers, yv_Fm: Numbers) -> Numbers:
    """Return s y / (y v) of the newest step that is not empty, [F]; 1 if all are."""
    scale_F = np.ones(len(sy_Fm))
    for step in range(sy_Fm.shape[1]):
        filled = yv_Fm[:, step] > 0
        scale_F[filled] = sy_Fm[filled, step] / yv_Fm[filled, step]
    return scale_F


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
    point, _ = _evaluate(arrays, objective, inverse, history, x)
    direction, slope = _direction(arrays, history, point)
    length, done = np.ones(len(slope)), np.zeros(len(slope), bool)
    evaluations = 1
    while evaluations < most:
        done |= np.maximum(-slope, point.gh) / 2 <= tolerance * point.f
        if done.all():
            break
        check()
        step = np.where(done, 0.0, length)
        there = point.x + arrays.put(step)[:, None] * direction
        new, (new_slope, cross) = _evaluate(arrays, objective, inverse, history, there, direction, point.h)
        evaluations += 1
        taken = _is_lower(point.f, slope, new.f, new_slope, step) & ~done
        shortened = np.where(new_slope > 0, np.clip(-slope / np.maximum(new_slope - slope, 1e-300), 0.1, 0.5), 0.5)
        length = np.where(taken, 1.0, np.where(done, length, length * shortened))
        done |= length < SHORTEST
        if taken.any():
            history.add(taken, step, point, new, slope, new_slope, cross)
            point = _chosen(arrays, taken, new, point)
            new_direction, new_slope = _direction(arrays, history, point)
            direction = _where(arrays, taken, new_direction, direction)
            slope = np.where(taken, new_slope, slope)
    return Minimum(point.x, evaluations)


def _evaluate(
    arrays: Arrays, objective: Objective, inverse: Inverse, history: History, x: Array, *others: Array
) -> tuple[_Point, Numbers]:
    """Evaluate the objectives at x, and the products of their gradients with other vectors, [number of others, F]."""
    value, gradient = objective(x)
    h = inverse(gradient)
    used, count = len(history.slots), 2 + len(others)
    products = [arrays.dots(gradient, other) for other in (h, *others)]
    read = arrays.read([value, *products, *history.dots(gradient)])
    sg, vg = read[:, count : count + used], read[:, count + used :]
    return _Point(x, gradient, h, read[:, 0], read[:, 1], sg, vg), read[:, 2:count].T


def _is_lower(f: Numbers, slope: Numbers, new_f: Numbers, new_slope: Numbers, step: Numbers) -> NDArray[np.bool_]:
    """Return for each problem whether a step is good enough: it is lower, or as low, with a flatter slope."""
    with np.errstate(invalid="ignore"):
        lower: NDArray[np.bool_] = new_f <= f + ARMIJO * step * slope
        return lower | ((new_f <= f * (1 + ROUNDING)) & (new_slope <= -CURVATURE * slope))


def _chosen(arrays: Arrays, mask_F: NDArray[np.bool_], after: _Point, before: _Point) -> _Point:
    """Return `after` for the problems of the mask, and `before` for the others."""
    if mask_F.all():
        return after
    x, gradient, h = (_where(arrays, mask_F, *pair) for pair in zip(after.vectors, before.vectors, strict=True))
    mask_F1 = mask_F[:, None]
    return _Point(
        x, gradient, h,
        np.where(mask_F, after.f, before.f), np.where(mask_F, after.gh, before.gh),
        np.where(mask_F1, after.sg, before.sg), np.where(mask_F1, after.vg, before.vg),
    )  # fmt: skip


def _where(arrays: Arrays, mask_F: NDArray[np.bool_], after: Array, before: Array) -> Array:
    return after if mask_F.all() else arrays.xp.where(arrays.put(mask_F)[:, None], after, before)


def _direction(arrays: Arrays, history: History, point: _Point) -> tuple[Array, Numbers]:
    """Return the next full step [F, P] and the objective's slope along it, [F]."""
    used = len(history.slots)
    h, gh, sg, vg = point.h, point.gh, point.sg, point.vg
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
