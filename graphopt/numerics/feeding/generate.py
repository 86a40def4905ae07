"""Draw the values of one input: by distribution where they are free, by domain where they are not."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import BadInput
from graphopt.numerics.feeding.domains import Domain
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.numerics.values import dtype_of, is_float

Distribution: TypeAlias = Literal[
    "normal", "wide", "image", "sparse", "binary", "tiny", "constant", "mild", "special"
]

DISTRIBUTIONS: tuple[Distribution, ...] = (
    "normal",
    "wide",
    "image",
    "sparse",
    "binary",
    "tiny",
    "constant",
)
"""What the sets of a run take in turn, those that find most faults first.

Negative numbers show what zeros as padding hide, wide ones leave the ranges of clips on both sides, pictures
have the structure that detectors answer to, zeros and ones meet the corners of activations and comparisons.
``mild`` (uniform in [0.1, 0.9]) stands in where these fail; ``special`` has NaN, infinities, zeros of both
signs and denormal numbers among normal ones, and is drawn on request only.
"""

_SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45)
_SPECIAL_FROM = 32

_WORDS = ("graph", "a", "The quick brown fox", "42", "", "naïve", "x_1", "hello world")
SMALL = 9
"""The largest integer where nothing bounds it: as an index a larger one would leave a small table."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to draw one set of feeds.

    Attributes:
        distribution: What free floats follow.
        seed: The seed of the set; each input has its own stream of it.
        index: The number of the set.
        stream: The number of the set whose integers, texts and masks it has.
        span: The length that length-like inputs may reach.
        full: Whether masks are all ones and lengths full.
        floor: The smallest integer that unbounded integer inputs take.
        ceiling: The largest one.
        cap: The largest integer that any index takes, where the model refused a larger one.
    """

    distribution: Distribution
    seed: int
    index: int
    stream: int = 0
    span: int = 1
    full: bool = False
    floor: int = 0
    ceiling: int = SMALL
    cap: int | None = None


def draw(spec: ValueSpec, domain: Domain, shape: tuple[int, ...], recipe: Recipe) -> Any:
    """Draw a value for an input.

    Args:
        spec: The input.
        domain: What values it takes.
        shape: Its shape with all sizes filled in.
        recipe: How to draw.

    Raises:
        BadInput: There is no way to feed an input of this type.
    """
    free = "float" in spec.elem or spec.elem == "double"
    number = recipe.index if free and domain.role == "number" else recipe.stream
    rng = np.random.default_rng([recipe.seed, number, zlib.crc32(spec.name.encode())])
    if spec.kind == "map":
        return _draw_map(spec, domain, rng)
    if spec.kind == "sequence":
        return [_draw_tensor(spec, domain, shape, recipe, rng) for _ in range(2 + recipe.index % 2)]
    if spec.kind == "sparse":
        raise BadInput(
            f"The input '{spec.name}' is a sparse tensor, which cannot be fed: convert it to a dense one."
        )
    return _draw_tensor(spec, domain, shape, recipe, rng)


def _draw_map(spec: ValueSpec, domain: Domain, rng: np.random.Generator) -> dict[Any, Any]:
    keys = list(domain.choices) or (["a", "b", "c"] if spec.key == "string" else [0, 1, 2])
    if spec.elem == "string":
        return {key: _WORDS[int(rng.integers(len(_WORDS)))] for key in keys}
    dtype = dtype_of(spec.elem)
    integer = dtype is not None and dtype.kind in "iu"
    return {key: int(rng.integers(SMALL)) if integer else float(rng.standard_normal()) for key in keys}


def _draw_tensor(
    spec: ValueSpec, domain: Domain, shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator
) -> NDArray[Any]:
    dtype = dtype_of(spec.elem)
    if dtype is None:
        raise BadInput(f"The input '{spec.name}' is {spec.text}, a type that cannot be fed.")
    if dtype.kind == "O":
        return _draw_text(domain, shape, rng)
    if dtype.kind == "b":
        return _mask(shape, recipe, rng, likely=0.8 if domain.role == "mask" else 0.5)
    if domain.role == "number":
        if dtype.kind == "c":
            return (_floats(shape, recipe, rng) + 1j * _floats(shape, recipe, rng)).astype(dtype)
        if is_float(dtype):
            return np.asarray(_floats(shape, recipe, rng)).astype(dtype)
        return _integers(dtype, shape, recipe, rng).astype(dtype)
    return np.asarray(_by_role(domain, shape, recipe, rng, is_float(dtype))).astype(dtype)


def _by_role(
    domain: Domain, shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator, floating: bool
) -> NDArray[Any]:
    if domain.role == "mask":
        return _mask(shape, recipe, rng, likely=0.8)
    if domain.role == "choice":
        numbers = [choice for choice in domain.choices if not isinstance(choice, str)]
        if len(numbers) == 1 and isinstance(numbers[0], int) and numbers[0] > 1 and not recipe.full:
            # The other branch of an If, with what is most often the other sample rate.
            numbers.append(numbers[0] // 2)
        return np.asarray(rng.choice(np.asarray(numbers or [0]), size=shape))
    if domain.role == "position":
        count = shape[-1] if shape else 1
        run = np.minimum(np.arange(count), domain.high if domain.high is not None else count)
        return np.broadcast_to(run, shape) if shape else run[0]
    if domain.role == "length":
        lengths = rng.integers(1, recipe.span + 1, size=shape)
        if recipe.full or not lengths.ndim:
            return np.full(shape, recipe.span)
        lengths.reshape(-1)[:1] = recipe.span
        return lengths
    if domain.role == "fixed":
        return np.full(shape, domain.low)
    if domain.role == "shape":
        # As the target of a Reshape this fits data of any size.
        return np.where(np.arange(math.prod(shape)) == 0, -1, 1).reshape(shape)
    if domain.role == "axes":
        return np.arange(max(1, int(np.prod(shape)))).reshape(shape)
    if domain.role == "size":
        return rng.integers(1, max(2, min(recipe.ceiling, 4)), size=shape)
    if domain.role == "positive":
        return rng.uniform(0.3, 0.9, size=shape) if floating else np.ones(shape, dtype=np.int64)
    return _indices(domain, shape, recipe, rng)


def _indices(
    domain: Domain, shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator
) -> NDArray[Any]:
    low, high = domain.low, domain.high if domain.high is not None else recipe.ceiling
    if recipe.cap is not None:
        high = min(high, recipe.cap)
    high = max(low, high)
    if domain.segments and len(shape) == 1 and shape[0] > high:
        # Every segment has members: the mean of none is no number.
        return np.sort(np.append(np.arange(high + 1), rng.integers(low, high + 1, size=shape[0] - high - 1)))
    drawn = rng.integers(
        low, min(high, low + 1) + 1 if recipe.distribution == "binary" else high + 1, size=shape
    )
    if recipe.distribution == "wide" and drawn.ndim and drawn.size > 2:
        drawn.reshape(-1)[[0, -1]] = high, low
    return drawn


def _integers(
    dtype: np.dtype[Any], shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator
) -> NDArray[Any]:
    if dtype == np.uint8 and recipe.distribution == "image":
        return np.round(255 * _smooth(shape, rng))
    if (recipe.floor, recipe.ceiling) != (0, SMALL) and dtype.itemsize > 1:
        return rng.integers(recipe.floor, max(recipe.floor, recipe.ceiling) + 1, size=shape)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max + 1, size=shape)
    return rng.integers(0, 2 if recipe.distribution == "binary" else SMALL + 1, size=shape)


def _floats(shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator) -> NDArray[np.float64]:
    if recipe.distribution == "image":
        return _smooth(shape, rng)
    if recipe.distribution == "mild":
        return rng.uniform(0.1, 0.9, size=shape)
    if recipe.distribution == "binary":
        return rng.integers(0, 2, size=shape).astype(np.float64)
    normal = np.asarray(rng.standard_normal(size=shape))
    if recipe.distribution == "constant":
        return np.full(shape, rng.standard_normal())
    if recipe.distribution == "special":
        values = np.where(rng.random(size=shape) < 0.1, rng.choice(_SPECIAL, size=shape), normal)
        if values.size >= _SPECIAL_FROM:
            # Each of them is there, also where a tenth of the elements is few.
            places = rng.choice(values.size, size=len(_SPECIAL), replace=False)
            values.reshape(-1)[places] = _SPECIAL
        return values
    if recipe.distribution == "wide":
        # Heavy tails: most elements within 3, a few beyond 30.
        return normal * np.exp(np.abs(rng.standard_normal(size=shape)))
    if recipe.distribution == "tiny":
        return normal * 1e-3
    if recipe.distribution == "sparse":
        return np.where(rng.random(size=shape) < 0.1, normal, 0.0)
    return normal


def _smooth(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Values in [0, 1] as a picture has them: gradients, a few hard edges, little noise."""
    if not shape or not math.prod(shape):
        return np.asarray(rng.uniform(size=shape))
    total = np.zeros(shape)
    axes = range(max(0, len(shape) - 2), len(shape))
    lead = shape[: axes.start]
    grids = np.meshgrid(*(np.linspace(0, 1, shape[axis]) for axis in axes), indexing="ij")
    for _ in range(3):
        phase = rng.uniform(0, 2 * np.pi, size=(*lead, *(1 for _ in axes)))
        wave = sum(grid * rng.uniform(-12, 12) for grid in grids)
        total += rng.uniform(0.3, 1.0) * np.sin(wave + phase)
    for _ in range(3):
        inside = np.ones(shape[axes.start :], dtype=np.bool_)
        for grid in grids:
            edge = rng.uniform(0, 0.7)
            inside &= (grid >= edge) & (grid <= edge + 0.3)
        total += np.where(inside, rng.uniform(-2, 2, size=(*lead, *(1 for _ in axes))), 0.0)
    total += 0.02 * rng.standard_normal(size=shape)
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-12)


def _mask(
    shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator, likely: float
) -> NDArray[np.bool_]:
    if recipe.full:
        return np.ones(shape, dtype=np.bool_)
    if len(shape) == 2 and likely > 0.5:
        # Rows of ones that end in padding; a row that is all padding would give NaN in a softmax.
        kept = rng.integers(1, max(2, shape[1] + 1), size=(shape[0], 1))
        return np.arange(shape[1])[None, :] < kept
    drawn = np.asarray(rng.random(size=shape) < likely)
    if drawn.ndim and drawn.shape[-1]:
        drawn[..., 0] = True
    return drawn


def _draw_text(domain: Domain, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    words = [choice for choice in domain.choices if isinstance(choice, str)] or list(_WORDS)
    drawn = np.empty(shape, dtype=object)
    drawn[...] = words[0]
    flat = drawn.reshape(-1)
    for position in range(flat.size):
        flat[position] = words[int(rng.integers(len(words)))]
    return drawn
