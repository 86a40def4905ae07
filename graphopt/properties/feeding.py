"""Feeds for small models, tried on the model itself, whose outputs are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference

from graphopt.errors import BadInput
from graphopt.model import Model
from graphopt.numerics.feeding.feeds import FeedSet, NoFeeds, Trial, find_feeds
from graphopt.numerics.feeding.generate import Distribution
from graphopt.numerics.feeding.sizes import resolve, shapes_of
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.properties.served import Run
from graphopt.soundness import REFUSALS

EXACTING: tuple[Distribution, ...] = ("normal", "special", "wide", "sparse")
"""For what must be equal bit for bit: NaN, infinities and zeros of both signs among others."""
ROUNDING: tuple[Distribution, ...] = ("normal", "wide", "sparse", "image")
"""For what may be rounded differently: rounding could turn a number into an infinity, or back."""

_SMALL_SIZES = (3, 2)
_LOOKUPS = frozenset({"Gather", "GatherElements", "GatherND"})
_SCALED = frozenset({"Resize", "Upsample"})


@dataclass(frozen=True, slots=True)
class Fed:
    """Feeds, and what the model gives on them.

    Attributes:
        name: What they are called.
        arrays: The values by input name.
        outputs: The outputs by name.
    """

    name: str
    arrays: Mapping[str, Any]
    outputs: Mapping[str, Any]


def fed(run: Callable[[Mapping[str, Any]], Run], feeds: Sequence[Mapping[str, Any]]) -> list[Fed]:
    """What a model gives on feeds that somebody chose.

    Raises:
        BadInput: It does not run on one of them.
    """
    found: list[Fed] = []
    for number, arrays in enumerate(feeds):
        ran = run(arrays)
        if ran.outputs is None:
            raise BadInput(f"The model does not run on feed {number}: {ran.error}")
        found.append(Fed(f"{number}", arrays, ran.outputs))
    return found


def find(
    model: Model,
    run: Callable[[Mapping[str, Any]], Run],
    *,
    samples: int,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    sizes: Sequence[Mapping[str, int]] | None = None,
    distributions: Sequence[Distribution] = EXACTING,
) -> list[Fed]:
    """Find feeds that a model runs on, some of which override initializers that are inputs.

    Args:
        model: The model.
        run: Runs it.
        samples: How many to find.
        seed: What they start from.
        dims: Sizes that symbolic dims must have; names that the model does not have are ignored.
        sizes: Sizes of all symbolic dims to try first; no large ones that the graph suggests are tried then.
        distributions: What the feeds follow, in turn.

    Raises:
        BadInput: There are none.
    """
    search = _Search(model, run, seed, dims or {})
    found = search.small(samples, sizes or (), distributions)
    if not found and search.has_symbols and sizes is not None:
        raise BadInput("No feed of a small size was found that the model runs on.")
    found = found or search.guessed(samples, distributions)
    return [*found, *_overriding(model, run, found[0], seed)]


class _Search:
    """Looks for feeds: of small sizes first, as most graphs take any, then of those that they suggest."""

    def __init__(
        self, model: Model, run: Callable[[Mapping[str, Any]], Run], seed: int, dims: Mapping[str, int]
    ) -> None:
        self._model = model
        self._proto = model.proto()
        self._sound = not _inference_problem(self._proto)
        self._specs = _specs(model)
        self._run = run
        self._seed = seed
        shapes = {spec.name: spec.dims if spec.dims is not None else (None, None) for spec in self._specs}
        self._shapes = shapes_of(shapes)
        named = (dim for shape in self._shapes.values() for dim in shape.dims)
        self._symbols = list(dict.fromkeys(dim for dim in named if isinstance(dim, str)))
        self._dims = {name: size for name, size in dims.items() if self._knows(name)}
        self._outputs: dict[str, Mapping[str, Any]] = {}

    @property
    def has_symbols(self) -> bool:
        """Whether the model has inputs of open sizes."""
        return bool(self._symbols)

    def _knows(self, name: str) -> bool:
        return not resolve({name: 1}, self._shapes)[1]

    def small(
        self, samples: int, sizes: Sequence[Mapping[str, int]], distributions: Sequence[Distribution]
    ) -> list[Fed]:
        """Feeds of one or two sizes; none if no small ones run."""
        if not self._symbols:
            return []
        plain = [dict.fromkeys(self._symbols, size) for size in _SMALL_SIZES]
        fitting: list[dict[str, int]] = []
        for tried in (*sizes, *plain):
            known = {name: size for name, size in tried.items() if self._knows(name)}
            chosen = {**known, **self._dims}
            if chosen not in fitting and self._feeds(1, chosen, distributions[:1]):
                fitting.append(chosen)
            if len(fitting) == 2:
                break
        count = len(fitting)
        return [
            feed
            for index, chosen in enumerate(fitting)
            for feed in self._feeds(-(-samples // count), chosen, distributions[index::count])
        ]

    def guessed(self, samples: int, distributions: Sequence[Distribution]) -> list[Fed]:
        """Feeds of the sizes that the graph suggests."""
        try:
            return self._found(samples, self._dims, distributions)
        except NoFeeds as error:
            raise BadInput(str(error)) from error

    def _feeds(
        self, samples: int, dims: Mapping[str, int], distributions: Sequence[Distribution]
    ) -> list[Fed]:
        try:
            return self._found(samples, dims, distributions)
        except BadInput:
            return []

    def _found(
        self, samples: int, dims: Mapping[str, int], distributions: Sequence[Distribution]
    ) -> list[Fed]:
        plan = find_feeds(
            self._model.ir,
            self._specs,
            self._attempt,
            samples=samples,
            seed=self._seed,
            dims=dims,
            distributions=distributions,
        )
        found = [feed for feed in plan.sets if feed.key in self._outputs]
        if not found:
            raise BadInput("No feed was found that the model runs on.")
        return [Fed(feed.name, feed.arrays, self._outputs[feed.key]) for feed in found]

    def _attempt(self, feed: FeedSet) -> Trial:
        if feed.key not in self._outputs:
            if self._symbols and self._sound and not _is_meant(self._proto, feed.arrays):
                return Trial("the model is not meant for these sizes.")
            ran = self._run(feed.arrays)
            if ran.outputs is None:
                return Trial(ran.error or "it does not run", fatal=ran.lacks_kernel)
            self._outputs[feed.key] = ran.outputs
        return Trial()


def _overriding(model: Model, run: Callable[[Mapping[str, Any]], Run], base: Fed, seed: int) -> list[Fed]:
    """One more feed, in which every default that can be overridden is, if the model runs on it."""
    optional = {port.name for port in model.interface().inputs if port.optional}
    rng = np.random.default_rng(seed)
    others: dict[str, Any] = {}
    for name, value in model.ir.graph.initializers.items():
        if name not in optional or value.const_value is None:
            continue
        array = value.const_value.numpy()
        readers = {use.node.op_type for use in value.uses()}
        # Shapes that the model declares may rest on any other integer, and on scales.
        if readers <= _LOOKUPS or (array.dtype.kind == "f" and not readers & _SCALED):
            others[name] = _varied(array, rng)
    if not others:
        return []
    ran = run({**base.arrays, **others})
    if ran.outputs is None:
        return []
    return [Fed(f"{base.name}, defaults overridden", {**base.arrays, **others}, ran.outputs)]


def _varied(array: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Other values of the same kind: indices stay in range, what must be positive stays so."""
    mixed = rng.permutation(np.array(array).reshape(-1)).reshape(array.shape)
    if array.dtype.kind == "f":
        return np.asarray(mixed * rng.uniform(0.5, 2.0, array.shape)).astype(array.dtype)
    return np.asarray(mixed)


def _is_meant(model: onnx.ModelProto, arrays: Mapping[str, Any]) -> bool:
    """Whether onnx's shape inference can go along with the sizes of these feeds.

    Runtimes run much that the specification does not allow, such as parts that do not add up to the whole.
    """
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    for info in fixed.graph.input:
        if info.name not in arrays or not info.type.HasField("tensor_type"):
            continue
        info.type.tensor_type.ClearField("shape")
        for size in np.shape(arrays[info.name]):
            info.type.tensor_type.shape.dim.add(dim_value=size)
    return not _inference_problem(fixed)


def _inference_problem(model: onnx.ModelProto) -> bool:
    try:
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except REFUSALS:
        return True
    return False


def _specs(model: Model) -> list[ValueSpec]:
    shapes = {port.name: port.shape for port in model.interface().inputs if not port.optional}
    infos = {info.name: info.type for info in model.proto().graph.input}
    return [ValueSpec.parse(name, _text(infos[name]), shape) for name, shape in shapes.items()]


def _text(kind: onnx.TypeProto) -> str:
    """A type as ONNX Runtime writes it."""
    if kind.HasField("sequence_type"):
        return f"seq({_text(kind.sequence_type.elem_type)})"
    if kind.HasField("optional_type"):
        return f"optional({_text(kind.optional_type.elem_type)})"
    if kind.HasField("map_type"):
        key = onnx.TensorProto.DataType.Name(kind.map_type.key_type).lower()
        return f"map({key},{_text(kind.map_type.value_type)})"
    sparse = kind.HasField("sparse_tensor_type")
    elem = kind.sparse_tensor_type.elem_type if sparse else kind.tensor_type.elem_type
    name = onnx.TensorProto.DataType.Name(elem).lower()
    return f"sparse_tensor({name})" if sparse else f"tensor({name})"


def finite_scale(array: np.ndarray[Any, Any]) -> float:
    """The largest finite magnitude; 0 where there is none."""
    wide = np.abs(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64))
    kept = wide[np.isfinite(wide)]
    return float(kept.max()) if kept.size and math.isfinite(float(kept.max())) else 0.0
