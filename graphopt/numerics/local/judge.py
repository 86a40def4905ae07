"""Whether a value computed after a rewrite is what it was before, given how float32 computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.numerics.compare import slice_axis
from graphopt.numerics.local.kernels import Array
from graphopt.numerics.values import epsilon

Finding = Literal["clean", "wrong", "not checked"]

# A dropped BatchNorm epsilon stands 30 to 90 times above the local error of float32; folded weights that
# were rounded to float32 stand about as high as that error.
_TIMES = 10.0
_SPREADS = 4.0
"""As `_TIMES`, of what random perturbations of one unit moved the value by at most."""
# What a rounded constant may move a value by, in units of the slice's scale.
_UNITS = 4.0
_JUMPING = 0.02
"""The share of elements beyond what was seen to jump that cannot have jumped as well."""
# A float that lies on the edge between two integers may fall to either side.
_EDGE = 1e-3


@dataclass(frozen=True, slots=True)
class Judged:
    """How one value compares.

    Attributes:
        finding: Whether the two agree.
        error: The largest difference, in units of what float32 would explain; over 1 is wrong.
        difference: The largest absolute difference.
        scale: The scale of the slice that it is in.
        share: The share of elements that differ by more than rounding explains.
        reason: One phrase where it is not clean.
    """

    finding: Finding
    error: float = 0.0
    difference: float = 0.0
    scale: float = 0.0
    share: float = 1.0
    reason: str = ""


def judge(
    before: Array,
    after: Array,
    captured: Array,
    spread: Array | None = None,
    *,
    unit: float = 0.0,
    jumps: bool = False,
) -> Judged:
    """Compare a value before and after, both computed in float64 from the same values.

    Args:
        before: By the nodes before.
        after: By the nodes after.
        captured: What the runtime gave before, in the model's own type.
        spread: How far random roundings in the region moved each element of ``before``, where known.
        unit: The spacing at 1 of the coarsest float that it was computed in, where coarser than its own.
        jumps: Whether an element may jump where rounding takes it over an edge, as in a quantizer.
    """
    if before.shape != after.shape:
        return Judged("wrong", np.inf, reason=f"has the shape {list(after.shape)} for {list(before.shape)}")
    if before.shape != captured.shape:
        return Judged("not checked", reason="the runtime gives another shape than the definition")
    if before.dtype.kind in "OUS":
        same = bool(np.all(before.astype(object) == after.astype(object)))
        return Judged("clean") if same else Judged("wrong", np.inf, reason="differs in its text")
    if not before.size:
        return Judged("clean")
    if before.dtype.kind in "biu":
        return _discrete(before, after, captured)
    unit = max(unit, epsilon(captured.dtype), float(np.finfo(np.float32).eps))
    wide = before.astype(np.float64), after.astype(np.float64)
    return _floats(*wide, captured, spread, unit=unit, jumps=jumps)


def _discrete(before: Array, after: Array, captured: Array) -> Judged:
    differ = before != after
    share = float(np.count_nonzero(differ)) / before.size
    if not share:
        return Judged("clean")
    rounding = float(np.count_nonzero(before != captured)) / before.size
    step = np.abs(before.astype(np.float64) - after.astype(np.float64)).max()
    if step <= 1 and share <= max(_EDGE, 4 * rounding):
        return Judged("clean", difference=float(step))
    return Judged("wrong", np.inf, float(step), reason=f"differs in {share:.2%} of its elements")


def _floats(
    before: Array, after: Array, captured: Array, spread: Array | None, *, unit: float, jumps: bool
) -> Judged:
    finite = np.isfinite(before) & np.isfinite(after)
    if not finite.all():
        agree = (np.isnan(before) & np.isnan(after)) | (before == after) | finite
        if not agree.all():
            return Judged("wrong", np.inf, reason="is finite on one side only")
        if not finite.any():
            return Judged("not checked", reason="nothing is finite here")
    runtime = captured.astype(np.float64)
    usable = finite & np.isfinite(runtime)
    zeros = np.zeros_like(before)
    scale = np.where(finite, np.abs(before), 0.0)
    rounding = _TIMES * np.abs(np.subtract(runtime, before, out=zeros.copy(), where=usable))
    if spread is not None:
        rounding = np.maximum(rounding, _SPREADS * np.where(np.isfinite(spread), spread, 0.0))
    error = np.abs(np.subtract(after, before, out=zeros.copy(), where=finite))
    axis = slice_axis([scale])
    others = tuple(index for index in range(scale.ndim) if index != axis)
    each, elements = error, rounding
    scale, rounding, error = (np.atleast_1d(array.max(axis=others)) for array in (scale, rounding, error))
    least = _UNITS * unit * scale + float(np.finfo(np.float32).tiny)
    allowed = rounding + least
    ratio = error / allowed
    worst = int(ratio.argmax())
    found = float(ratio[worst]), float(error[worst]), float(scale[worst])
    shape = [1] * before.ndim if axis is None else [-1 if i == axis else 1 for i in range(before.ndim)]
    if found[0] <= 1:
        # One element that jumped must not excuse all the others.
        usual = np.atleast_1d(np.quantile(elements, 0.95, axis=others)) if jumps else rounding
        limit = (usual + least).reshape(shape)
        jumped = elements > limit
        beyond = float(np.count_nonzero((each > limit) & ~jumped)) / before.size
        if beyond <= 4 * float(np.count_nonzero(jumped)) / before.size + _JUMPING:
            return Judged("clean", *found)
        ratio = float((each / limit).max())
        return Judged("wrong", ratio, *found[1:], beyond, f"is off in {beyond:.2%} of its elements")
    share = float(np.count_nonzero(each > allowed.reshape(shape))) / before.size
    return Judged("wrong", *found, share, f"is off by {found[1]:.2g} on a scale of {found[2]:.2g}")
