"""Passes of many units, nearly all of them harmless: what a diagnosis must find the guilty ones among.

A plugin file. The options say which units are wrong, and how. What they name is written ``FAULT@UNIT``, or
``FAULT@UNIT&OTHER`` where the unit depends on another one. A unit is the name of a node's first output in
`Copies`, a component in `Tool`, and nothing in `Surgeon`.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
import onnx_graphsurgeon as gs
import onnx_ir as ir
import planted_faults

from graphopt import Numerics, OpaquePass, RewritePass, Rewriter, SurgeonPass, ToolReport, facts
from graphopt.rewrite.rewriter import PASS_KEY, SITE_KEY

COUNT = 40
_FACTOR = 1.25
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)

FAULTS: dict[str, type[RewritePass[ir.Node]]] = {
    cls.name: cls
    for cls in vars(planted_faults).values()
    # Whether that one is possible depends on which other nodes were rewritten before.
    if inspect.isclass(cls)
    and issubclass(cls, RewritePass)
    and hasattr(cls, "name")
    and cls is not planted_faults.SharedWeightEdited
}


@dataclass(frozen=True)
class Wanted:
    """One text of an option, read."""

    fault: str
    unit: str
    other: str = ""

    @classmethod
    def read(cls, texts: Sequence[str]) -> dict[str, Wanted]:
        """What is asked of each unit."""
        found = [text.partition("@") for text in texts]
        parts = [(fault, *rest.partition("&")[::2]) for fault, _, rest in found]
        return {unit: cls(fault, unit, other) for fault, unit, other in parts}


def possible(fault: str, node: ir.Node) -> bool:
    """Whether a fault of `Copies` is possible at a node."""
    if fault in ("raises", "unknown-operator"):
        return True
    if fault == "scaled":
        return facts.dtype(node.outputs[0]) in _FLOATS
    step = FAULTS[fault]()
    if f"{node.domain}::{node.op_type}".removeprefix("::") not in step.roots:
        return False
    return facts.opset(node) >= step.min_opset and step.match(node) is not None


@dataclass(frozen=True)
class Copies(RewritePass[ir.Node]):
    """Puts an exact copy in the place of each node, once; at the units of an option, something wrong.

    Attributes:
        wrong: Units that do the fault.
        together: Units that do the fault only if a node is there that the rewrite of the other unit made,
            or that is called so; else they copy.
        twice: Units that copy first and do the fault to the copy, in a second rewrite.
        ops: The operators to copy; all if there are none.
    """

    wrong: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()

    name = "copies"
    roots = ("*",)
    numerics = Numerics.REASSOCIATES

    def match(self, node: ir.Node) -> ir.Node | None:
        if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            return None
        if not all(value.name for value in node.outputs) or (self.ops and node.op_type not in self.ops):
            return None
        if _maker(node) != self.name:
            return node
        return node if _place(node) in Wanted.read(self.twice) else None

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        fault = self._fault(match)
        if fault == "raises":
            raise ZeroDivisionError("on purpose")
        if fault in FAULTS:
            FAULTS[fault]().rewrite(match, rw)
            return
        op = "NoSuchOperator" if fault == "unknown-operator" else match.op_type
        attributes: Mapping[str, Any] = {} if fault == "unknown-operator" else dict(match.attributes)
        made = rw.ops(
            op,
            match.inputs,
            len(match.outputs),
            role="new",
            attributes=attributes,
            domain=match.domain,
            likes=match.outputs,
        )
        for index, (old, new) in enumerate(zip(match.outputs, made, strict=True)):
            taken = _scaled(new, rw) if fault == "scaled" and index == 0 else new
            if old.uses() or old.is_graph_output():
                rw.replace(old, taken)

    def _fault(self, node: ir.Node) -> str:
        if _maker(node) == self.name:
            return Wanted.read(self.twice)[_place(node)].fault
        unit = node.outputs[0].name or ""
        wrong, together = Wanted.read(self.wrong), Wanted.read(self.together)
        found = wrong.get(unit)
        if unit in together and _is_there(together[unit].other, node.graph):
            found = together[unit]
        return found.fault if found is not None and possible(found.fault, node) else ""


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _maker(node: ir.Node) -> str:
    return node.metadata_props.get(PASS_KEY, "").partition("#")[0]


def _place(node: ir.Node) -> str:
    return node.metadata_props.get(SITE_KEY, "").partition("@")[2]


def _is_there(unit: str, graph: ir.Graph | ir.Function | None) -> bool:
    # A copy of a node has another name, but its place tells what it is a copy of.
    names = ((node.name, _place(node)) for node in graph or ())
    return any(unit in pair or pair[1].endswith(f"/{unit}") for pair in names)


def _scaled(value: ir.Value, rw: Rewriter) -> ir.Value:
    dtype = facts.dtype(value)
    assert dtype is not None
    factor = rw.initializer(np.array(_FACTOR, dtype.numpy()), role="factor")
    return rw.op("Mul", [value, factor], role="scaled", like=value)


@dataclass(frozen=True)
class Tool(OpaquePass):
    """Does `COUNT` small things to a model, in order, each of which can be switched off.

    A component puts an Identity after a value, or gives a node another name. The node that a component
    adds is called as the component is.

    Attributes:
        wrong: Components that do the fault.
        together: Components that do the fault only if the node of the other one is there; else they are
            harmless.
        needs: The same; else they do nothing.
        talks: Whether it prints what it is doing, so that its last words name a suspect.
    """

    wrong: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    talks: bool = False

    name = "planted-tool"
    numerics = Numerics.REASSOCIATES

    def components(self) -> frozenset[str]:
        return frozenset(map(component, range(COUNT)))

    def suspects(self, output: str) -> tuple[str, ...]:
        lines = [line for line in output.splitlines() if line.startswith("doing ")]
        return (lines[-1].removeprefix("doing "),) if lines else ()

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        model = onnx.load(source)
        places = float_values(model)
        wrong, together, needs = (Wanted.read(texts) for texts in (self.wrong, self.together, self.needs))
        others = {wanted.other for table in (together, needs) for wanted in table.values()}
        changed: list[str] = []
        for index in range(COUNT):
            name = component(index)
            nodes = {node.name for node in model.graph.node}
            if name in disabled or (name in needs and needs[name].other not in nodes):
                continue
            if self.talks:
                print(f"doing {name}", flush=True)
            asked = wrong.get(name) or needs.get(name)
            if name in together and together[name].other in nodes:
                asked = together[name]
            value = places[index * len(places) // COUNT]
            if asked is not None:
                _TOOL_FAULTS[asked.fault](model, value, name)
            elif index % 3 or name in others or name in together:
                _put_after(model, value, name, "Identity")
            else:
                _producer(model, value).name += f".{name}"
            changed.append(name)
        onnx.save(model, target)
        return ToolReport(tuple(changed))


def component(index: int) -> str:
    """The name of a component of `Tool`."""
    return f"c{index:02d}"


def output_of(component: str, value: str) -> str:
    """What the Identity gives that a component of `Tool` puts after a value."""
    return f"{value}/{component}"


def float_values(model: onnx.ModelProto) -> list[str]:
    """The values that `Tool` and `Surgeon` may act at: of known float type, and read within the graph."""
    types = _types(model)
    read = {name for node in model.graph.node for name in node.input}
    ports = {port.name for port in model.graph.output}
    made = [name for node in model.graph.node for name in node.output]
    return [name for name in made if types.get(name) in _FLOATS and name in read and name not in ports]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    known = onnx.shape_inference.infer_shapes(model).graph
    return {port.name: port.type.tensor_type.elem_type for port in (*known.value_info, *known.output)}


def _producer(model: onnx.ModelProto, value: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if value in node.output)


def _put_after(model: onnx.ModelProto, value: str, name: str, op: str, *inputs: str) -> None:
    """Let a node stand between a value and all that read it."""
    nodes = list(model.graph.node)
    at = 1 + next(index for index, node in enumerate(nodes) if value in node.output)
    made = output_of(name, value)
    for node in nodes:
        for index, read in enumerate(node.input):
            if read == value:
                node.input[index] = made
    nodes.insert(at, onnx.helper.make_node(op, [value, *inputs], [made], name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _constant(model: onnx.ModelProto, name: str, array: np.ndarray[Any, Any]) -> str:
    model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return name


def _number(model: onnx.ModelProto, value: str, name: str, number: float) -> str:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(_types(model)[value])
    return _constant(model, f"{name}.number", np.array(number, dtype))


def _before_output(model: onnx.ModelProto, name: str) -> tuple[str, str]:
    """Let the first float output be free; returns what is computed for it, and its name."""
    types = _types(model)
    port = next(port.name for port in model.graph.output if types.get(port.name) in _FLOATS)
    inner = f"{port}/{name}"
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, found in enumerate(names):
                if found == port:
                    names[index] = inner
    return inner, port


def _scale(model: onnx.ModelProto, value: str, name: str) -> None:
    _put_after(model, value, name, "Mul", _number(model, value, name, _FACTOR))


def _bound(model: onnx.ModelProto, value: str, name: str) -> None:
    _put_after(model, value, name, "Min", _number(model, value, name, 0.1))


def _negate(model: onnx.ModelProto, value: str, name: str) -> None:
    _put_after(model, value, name, "Neg")


def _retype(model: onnx.ModelProto, value: str, name: str) -> None:
    inner, port = _before_output(model, name)
    kind = onnx.TensorProto.INT32
    model.graph.node.append(onnx.helper.make_node("Cast", [inner], [port], name, to=kind))
    next(info for info in model.graph.output if info.name == port).type.tensor_type.elem_type = kind


def _reshape(model: onnx.ModelProto, value: str, name: str) -> None:
    inner, port = _before_output(model, name)
    axis = _constant(model, f"{name}.axis", np.array([-1], np.int64))
    start = _constant(model, f"{name}.start", np.array([1], np.int64))
    # Where the Slice ends is known only when the model runs: no declared shape contradicts it.
    shape, end = f"{name}.shape", f"{name}.end"
    model.graph.node.extend(
        [
            onnx.helper.make_node("Shape", [inner], [shape], shape),
            onnx.helper.make_node("Gather", [shape, axis], [end], end),
            onnx.helper.make_node("Slice", [inner, start, end, axis], [port], name),
        ]
    )


def _dangle(model: onnx.ModelProto, value: str, name: str) -> None:
    for node in model.graph.node:
        for index, read in enumerate(node.input):
            if read == value:
                node.input[index] = f"{name}.nowhere"


def _lose_output(model: onnx.ModelProto, value: str, name: str) -> None:
    del model.graph.output[-1]


def _unknown_operator(model: onnx.ModelProto, value: str, name: str) -> None:
    _put_after(model, value, name, "NoSuchOperator")


def _reach_too_far(model: onnx.ModelProto, value: str, name: str) -> None:
    far = _constant(model, f"{name}.far", np.array([1_000_000], np.int64))
    _put_after(model, value, name, "Gather", far)


def _raise(model: onnx.ModelProto, value: str, name: str) -> None:
    raise ZeroDivisionError("on purpose")


def _crash(model: onnx.ModelProto, value: str, name: str) -> None:
    ctypes.string_at(0)


def _exit(model: onnx.ModelProto, value: str, name: str) -> None:
    os._exit(3)


def _hang(model: onnx.ModelProto, value: str, name: str) -> None:
    time.sleep(600)


_TOOL_FAULTS: dict[str, Callable[[onnx.ModelProto, str, str], None]] = {
    "scaled": _scale,
    "bounded": _bound,
    "negated": _negate,
    "retyped": _retype,
    "reshaped": _reshape,
    "dangling": _dangle,
    "output-lost": _lose_output,
    "unknown-operator": _unknown_operator,
    "out-of-bounds": _reach_too_far,
    "raises": _raise,
    "crashes": _crash,
    "exits": _exit,
    "hangs": _hang,
}
TOOL_FAULTS = tuple(_TOOL_FAULTS)


@dataclass(frozen=True)
class Surgeon(SurgeonPass):
    """Puts a node after a value: an Identity called ``surgeon``, or something wrong.

    Attributes:
        at: The value; nothing is done without one.
        fault: ``scaled``, ``negated``, ``raises``, or nothing.
    """

    at: str = ""
    fault: str = ""

    name = "planted-surgeon"
    numerics = Numerics.REASSOCIATES

    def surgery(self, graph: gs.Graph) -> None:
        value: Any = graph.tensors().get(self.at)
        if value is None:
            return
        if self.fault == "raises":
            raise ZeroDivisionError("on purpose")
        made = gs.Variable(f"{self.at}/surgeon", dtype=value.dtype, shape=value.shape)
        for node in _unique(value.outputs):
            for index, read in enumerate(node.inputs):
                if read is value:
                    node.inputs[index] = made
        inputs: list[Any] = [value]
        if self.fault == "scaled":
            inputs.append(gs.Constant(f"{self.at}/factor", np.array(_FACTOR, value.dtype or np.float32)))
        op = {"scaled": "Mul", "negated": "Neg"}.get(self.fault, "Identity")
        nodes: Any = graph.nodes
        nodes.append(gs.Node(op, "surgeon", inputs=inputs, outputs=[made]))
        graph.toposort()


def _unique(nodes: Sequence[Any]) -> Iterator[Any]:
    seen: set[int] = set()
    for node in nodes:
        if id(node) not in seen:
            seen.add(id(node))
            yield node
