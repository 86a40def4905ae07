"""The worker's side of the local check: finds the regions, captures activations, computes both sides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graphopt.model import Model
from graphopt.numerics.local.evaluate import NoDefinition, evaluate, narrows, widened
from graphopt.numerics.local.judge import Finding, Judged, judge
from graphopt.numerics.local.kernels import Array
from graphopt.numerics.local.regions import Region, Side, find_regions
from graphopt.numerics.runtime import SessionSpec, provider_list
from graphopt.numerics.served import make_room, run_values
from graphopt.numerics.values import epsilon

# Operators whose result jumps: an element that lies on the edge may fall to either side of it.
_EDGES = frozenset(
    {"ArgMax", "ArgMin", "Cast", "Ceil", "DequantizeLinear", "DynamicQuantizeLinear", "Equal", "Floor",
     "Greater", "GreaterOrEqual", "Hardmax", "Less", "LessOrEqual", "Mod", "NonMaxSuppression", "NonZero",
     "QuantizeLinear", "Round", "Sign", "TopK", "Where"}
)  # fmt: skip
_EDGE_SHARE = 1e-3
# Here constants say how large the result is.
_SIZING = frozenset({"Range", "Resize", "Upsample"})
NO_TIME = "no time was left"
_SAMPLES = 3
_UNIT = float(np.finfo(np.float32).eps)
_CHUNK_BYTES = 256 << 20
_MOST_WEIGHTS = 1 << 26
"""Elements, in float64, of the constants of one side of a region."""
_FIRST_CHUNK = 32
_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(slots=True)
class Looked:
    """What was found at one region.

    Attributes:
        values: The values compared.
        names: Every value that its nodes give, before or after.
        ops: The operators, before and after.
        finding: The gravest finding over all its values and feeds.
        error: In units of what float32 would explain; over 1 is wrong.
        value: The value that the finding is about.
        share: The largest error as a share of the scale of its slice.
        reason: One phrase where it is not clean.
    """

    values: tuple[str, ...]
    names: frozenset[str]
    ops: tuple[tuple[str, ...], tuple[str, ...]]
    finding: Finding = "clean"
    error: float = 0.0
    value: str = ""
    share: float = 0.0
    reason: str = ""

    def take(self, found: Judged, value: str) -> None:
        """Take in the finding for one value on one feed."""
        if found.finding == "wrong" and (self.finding != "wrong" or found.error > self.error):
            self.finding, self.error, self.value = found.finding, found.error, value
            self.reason = found.reason
            self.share = found.difference / found.scale if found.scale else 1.0
        elif found.finding == "not checked" and self.finding == "clean":
            self.finding, self.value, self.reason = found.finding, value, found.reason
        elif self.finding == "clean":
            self.error = max(self.error, found.error)


def check_regions(
    before: str,
    after: str,
    spec: SessionSpec,
    feeds: Sequence[Mapping[str, Any]],
    seconds: float,
) -> list[Looked]:
    """Compare two versions of a model region by region.

    Args:
        before: The file before a pass.
        after: The file after it.
        spec: How the model before is run for its activations; its path is of no matter.
        feeds: What it is run on.
        seconds: When to stop, from when the session is there; regions not reached are ``not checked``.

    Returns:
        The regions, in the order of the model after.
    """
    old, new = Model.load(before), Model.load(after)
    sides = Side.of(old.ir), Side.of(new.ir)
    return look(Path(before), old, sides, list(find_regions(*sides)), spec, feeds, seconds)


def look(
    path: Path,
    before: Model,
    sides: tuple[Side, Side],
    regions: Sequence[Region],
    spec: SessionSpec,
    feeds: Sequence[Mapping[str, Any]],
    seconds: float,
) -> list[Looked]:
    """As `check_regions`, of regions that were found before; ``path`` is the file of the model before."""
    return _Look(path, before, sides, spec, seconds).at(regions, feeds)


class _Look:
    def __init__(
        self, path: Path, before: Model, sides: tuple[Side, Side], spec: SessionSpec, seconds: float
    ) -> None:
        self._path = path
        self._spec = spec
        self._seconds = seconds
        self._deadline = 0.0
        self._before = before
        self._sides = sides

    def at(self, regions: Sequence[Region], feeds: Sequence[Mapping[str, Any]]) -> list[Looked]:
        looked = [_looked(region) for region in regions]
        open_ones = [(region, at) for region, at in zip(regions, looked, strict=True) if not region.obstacle]
        if not open_ones:
            return looked
        wanted = dict.fromkeys(name for region, _ in open_ones for name in (*region.frontier, *region.values))
        capture = _Capture(self._path, self._spec, self._before, list(wanted))
        # Of a large model the session alone may take longer.
        self._deadline = time.monotonic() + self._seconds
        for feed in feeds:
            for chunk in _chunks(open_ones, capture):
                names = dict.fromkeys(n for region, _ in chunk for n in (*region.frontier, *region.values))
                activations = capture.run(list(names), feed)
                for region, at in chunk:
                    self._compare(region, at, activations)
        return looked

    def _compare(self, region: Region, at: Looked, activations: Mapping[str, Array]) -> None:
        if time.monotonic() > self._deadline:
            at.take(Judged("not checked", reason=NO_TIME), region.values[0])
            return
        absent = [name for name in (*region.frontier, *region.values) if name not in activations]
        if absent:
            at.take(Judged("not checked", reason="a value is no tensor"), absent[0])
            return
        if self._weights_of(region) > _MOST_WEIGHTS:
            at.take(Judged("not checked", reason="its weights are too large"), region.values[0])
            return
        frontier = {name: widened(activations[name]) for name in region.frontier}
        try:
            old = self._side(0, region.before, frontier)
            # A float of 16 bits that comes in is a fault; one that was there leaves only its algebra.
            narrow = _narrowings(region.after) > _narrowings(region.before)
            new = self._side(1, region.after, frontier, narrow=narrow)
        except NoDefinition as obstacle:
            at.take(Judged("not checked", reason=str(obstacle)), region.values[0])
            return
        spread: dict[str, Array] | None = None
        jumps = _has_edges(region)
        unit = self._unit(activations, region)
        for name in region.values:
            left = old[name] if name in old else self._constant(0, name)
            right = new[name] if name in new else self._constant(1, name)
            found = judge(left, right, activations[name], unit=unit, jumps=jumps)
            if found.finding == "wrong" and left.dtype.kind == "f" and left.shape == right.shape:
                # Where a few elements are left of a channel, the runtime may have been right by luck.
                if spread is None:
                    spread = self._spread(region, frontier, old, unit)
                if name in spread:
                    found = judge(left, right, activations[name], spread[name], unit=unit, jumps=jumps)
            if found.finding == "wrong" and found.share <= _EDGE_SHARE and jumps:
                found = Judged("not checked", reason="some values lie on an edge between two results")
            at.take(found, name)

    def _unit(self, activations: Mapping[str, Array], region: Region) -> float:
        """The spacing at 1 of the coarsest float that is computed in before; of float32 at least.

        Constants have that type, too: a sixth in float16 is 2.4e-4 off a sixth, whatever it is cast to later.
        """
        types = {name: activations[name].dtype for name in region.frontier}
        found = [_UNIT, *(epsilon(activations[name].dtype) for name in region.values)]
        for node in region.before:
            read = (value.name for value in node.inputs if value is not None)
            given = next((types[name] for name in read if name in types), None)
            if node.op_type == "Cast" and not node.attributes["to"].is_ref():
                given = ir.DataType(node.attributes["to"].as_int()).numpy()
            for value in node.outputs:
                kind = given if value.dtype is None else value.dtype.numpy()
                if kind is not None:
                    types[value.name or ""] = kind
                    found.append(epsilon(kind))
        return max(found)

    def _weights_of(self, region: Region) -> int:
        """How many elements the constants have that the larger of both sides reads."""
        found = [0]
        for side, nodes in zip(self._sides, (region.before, region.after), strict=True):
            read = {value.name for node in nodes for value in node.inputs if value is not None}
            found.append(sum(side.constants[name].size for name in read if name in side.constants))
        return max(found)

    def _spread(
        self, region: Region, frontier: Mapping[str, Array], exact: Mapping[str, Array], unit: float
    ) -> dict[str, Array]:
        """How far random roundings of every constant and every result move the values of the region."""
        generator = np.random.default_rng(0)

        def rounded(array: Array) -> Array:
            if array.dtype.kind != "f":
                return array
            moved = generator.uniform(-1, 1, array.shape)
            moved = np.multiply(moved, unit, out=moved if array.ndim else None)
            moved = np.add(moved, 1, out=moved if array.ndim else None)
            return np.multiply(moved, array, out=moved if array.ndim else None)

        found: dict[str, Array] = {}
        for _ in range(_SAMPLES):
            try:
                moved = self._side(0, region.before, frontier, rounded)
            except NoDefinition:
                break
            for name in region.values:
                if name in moved and moved[name].shape == exact[name].shape and moved[name].dtype.kind == "f":
                    with np.errstate(all="ignore"):
                        difference = np.abs(moved[name] - exact[name])
                    found[name] = np.maximum(found.get(name, difference), difference)
        return found

    def _side(
        self,
        index: int,
        nodes: Sequence[ir.Node],
        frontier: Mapping[str, Array],
        rounding: Callable[[Array], Array] | None = None,
        *,
        narrow: bool = False,
    ) -> dict[str, Array]:
        # What is read is rounded as well as what is made: an operator such as HardSigmoid adds before it
        # multiplies, and what it loses in between is no share of its result.
        values = {name: array if rounding is None else rounding(array) for name, array in frontier.items()}
        for node in nodes:
            for value in node.inputs:
                if (
                    value is not None
                    and value.name in self._sides[index].constants
                    and value.name not in values
                ):
                    array = self._constant(index, value.name)
                    if rounding is not None and node.op_type not in _SIZING:
                        array = rounding(array)
                    values[value.name] = array
        opsets = self._sides[index].opsets
        computed = evaluate(nodes, values, opsets, rounding, narrow=narrow)
        made = {value.name for node in nodes for value in node.outputs}
        return {name: array for name, array in computed.items() if name in made}

    def _constant(self, index: int, name: str) -> Array:
        return widened(np.asarray(self._sides[index].constants[name].numpy()))


class _Capture:
    """The model before with more outputs."""

    def __init__(self, path: Path, spec: SessionSpec, model: Model, names: list[str]) -> None:
        given = {port.name for port in model.interface().inputs}
        self._given = given
        self._defaults = {
            name: value.const_value
            for name, value in model.ir.graph.initializers.items()
            if name in given and value.const_value is not None
        }
        proto = onnx.load(path, load_external_data=False)
        present = {info.name for info in proto.graph.output}
        proto.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in names if name not in present and name not in given
        )
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(_FOLDER, str(path.parent))
        if spec.threads is not None:
            options.intra_op_num_threads = spec.threads
        providers = provider_list(spec)
        make_room()
        self._session = ort.InferenceSession(proto.SerializeToString(), options, providers=providers)
        self.bytes_each = _CHUNK_BYTES / _FIRST_CHUNK

    def run(self, names: Sequence[str], feed: Mapping[str, Any]) -> dict[str, Array]:
        """The values of ``names`` on a feed; those that are no tensors are left out."""
        asked = [name for name in names if name not in self._given]
        found = run_values(self._session, feed, frozenset(asked))[0] if asked else {}
        known = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
        for name in names:
            if name in self._given and name in feed:
                known[name] = np.asarray(feed[name])
            elif name in self._defaults:
                known[name] = np.asarray(self._defaults[name].numpy())
        if asked:
            self.bytes_each = max(sum(v.nbytes for v in known.values()) / len(asked), 1.0)
        return known


def _looked(region: Region) -> Looked:
    ops = tuple(tuple(node.op_type for node in nodes) for nodes in (region.before, region.after))
    looked = Looked(tuple(region.values), frozenset(region.names()), (ops[0], ops[1]))
    if region.obstacle:
        looked.take(Judged("not checked", reason=region.obstacle), region.values[0])
    return looked


def _narrowings(nodes: Sequence[ir.Node]) -> int:
    return sum(map(narrows, nodes))


def _has_edges(region: Region) -> bool:
    return any(node.op_type in _EDGES for node in (*region.before, *region.after))


def _chunks(
    items: Sequence[tuple[Region, Looked]], capture: _Capture
) -> Iterator[list[tuple[Region, Looked]]]:
    """Regions whose values fit into memory together, as far as the values so far tell."""
    chunk: list[tuple[Region, Looked]] = []
    count = 0
    for item in items:
        size = len(item[0].frontier) + len(item[0].values)
        if chunk and (count + size) * capture.bytes_each > _CHUNK_BYTES:
            yield chunk
            chunk, count = [], 0
        chunk.append(item)
        count += size
    if chunk:
        yield chunk
