"""Computes the nodes of a region in float64.

Every float tensor is widened, whatever type the model declares, so that only the algebra is left: a cast
to a narrower float does nothing, unless it is asked for. Operators run in ONNX Runtime where it has a kernel
for doubles, in the kernels of this package where neither it nor onnx has a usable one, else in onnx's
reference evaluator.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from graphopt.numerics.local.attention import ATTENTION
from graphopt.numerics.local.fused import FUSED
from graphopt.numerics.local.kernels import KERNELS, Array
from graphopt.numerics.local.quantized import QUANTIZED

_KERNELS = {**KERNELS, **FUSED, **ATTENTION, **QUANTIZED}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_NARROW = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_DTYPE_ATTRIBUTES = frozenset({("Cast", "to"), ("EyeLike", "dtype")})
_NO_KERNEL = re.compile(r"Could not find an implementation for (\w+)\(\d+\)")
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
# onnx's reference evaluator loops over these in Python.
_SLOW = frozenset(
    {"GRU", "GridSample", "LSTM", "LpPool", "MaxRoiPool", "RNN", "Resize", "RoiAlign", "Upsample"}
)
_MOST_SLOW, _MOST = 1 << 17, 1 << 22

_without_double: set[tuple[str, str]] = set()
"""Operators for which ONNX Runtime was found to have no kernel for doubles."""


class NoDefinition(Exception):
    """A region cannot be computed; says why in a few words."""


def widened(array: Array) -> Array:
    """Floats of any width in float64; anything else as it is."""
    if array.dtype.kind in "OUSbiu" or array.dtype == np.float64:
        return array
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    name = array.dtype.name
    return array.astype(np.float64) if "float" in name else array


def narrows(node: ir.Node) -> bool:
    """Whether a node casts to a float of 16 bits."""
    to = node.attributes.get("to") if node.op_type == "Cast" else None
    return to is not None and not to.is_ref() and to.as_int() in _NARROW


def evaluate(
    nodes: Sequence[ir.Node],
    values: Mapping[str, Array],
    opsets: Mapping[str, int],
    rounding: Callable[[Array], Array] | None = None,
    *,
    narrow: bool = False,
) -> dict[str, Array]:
    """Compute ``nodes``, which are in order, from ``values``.

    Args:
        nodes: The nodes; none of them has subgraphs.
        values: What they read, widened.
        opsets: The versions that the operators follow.
        rounding: What each result goes through before it is read, such as a perturbation.
        narrow: Whether a cast to a float of 16 bits rounds to it.

    Raises:
        NoDefinition: An operator has no definition here, is random, or is too slow.
    """
    known = dict(values)
    pending: list[onnx.NodeProto] = []
    for node in nodes:
        message = _widened_node(node)
        if message.op_type in _RANDOM:
            raise NoDefinition(f"{message.op_type} is random")
        if _for_runtime(message):
            pending.append(message)
            if rounding is None and not (narrow and narrows(node)):
                continue
        _run_pending(pending, known, opsets)
        if not _for_runtime(message) and not known.keys() >= set(filter(None, message.output)):
            _compute(message, known, opsets)
        if narrow and narrows(node):
            _narrow(message, node.attributes["to"].as_int(), known)
        if rounding is not None:
            known.update((name, rounding(known[name])) for name in message.output if name)
    _run_pending(pending, known, opsets)
    return known


def _narrow(node: onnx.NodeProto, to: int, known: dict[str, Array]) -> None:
    array = known[node.output[0]]
    with np.errstate(all="ignore"):
        known[node.output[0]] = widened(array.astype(ir.DataType(to).numpy()))


def _for_runtime(node: onnx.NodeProto) -> bool:
    key = _key(node)
    return key not in _KERNELS and key not in _without_double


def _key(node: onnx.NodeProto) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain), node.op_type


def _widened_node(node: ir.Node) -> onnx.NodeProto:
    message = ir.to_proto(node)
    for attr in message.attribute:
        if (message.op_type, attr.name) in _DTYPE_ATTRIBUTES and attr.i in _FLOATS:
            attr.i = TensorProto.DOUBLE
        if attr.type == onnx.AttributeProto.TENSOR and attr.t.data_type in _FLOATS:
            wide = numpy_helper.to_array(attr.t).astype(np.float64)
            attr.t.CopyFrom(numpy_helper.from_array(wide))
    return message


def _run_pending(pending: list[onnx.NodeProto], known: dict[str, Array], opsets: Mapping[str, int]) -> None:
    """Compute nodes in ONNX Runtime; those that it turns out not to know, elsewhere."""
    nodes, pending[:] = list(pending), []
    if not nodes:
        return
    try:
        known.update(_in_runtime(nodes, known, opsets))
        return
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        missing = _NO_KERNEL.search(str(error))
        if missing is not None:
            _without_double.update(_key(node) for node in nodes if node.op_type == missing[1])
        if len(nodes) == 1:
            _in_reference(nodes[0], known, opsets, str(error))
            return
    for node in nodes:
        if _for_runtime(node):
            _run_pending([node], known, opsets)
        else:
            _compute(node, known, opsets)


def _compute(node: onnx.NodeProto, known: dict[str, Array], opsets: Mapping[str, int]) -> None:
    kernel = _KERNELS.get(_key(node))
    if kernel is None:
        _in_reference(node, known, opsets, "no kernel")
        return
    inputs = [known[name] if name else None for name in node.input]
    attributes = {attr.name: _value(attr) for attr in node.attribute}
    try:
        with np.errstate(all="ignore"):
            results = kernel(inputs, attributes)
    except (
        ArithmeticError,
        AssertionError,
        LookupError,
        NotImplementedError,
        TypeError,
        ValueError,
    ) as error:
        raise NoDefinition(f"{node.op_type} in this form has no definition in float64") from error
    known.update((name, result) for name, result in zip(node.output, results, strict=False) if name)


def _value(attr: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attr)
    return value.decode() if isinstance(value, bytes) else value


def _in_runtime(
    nodes: Sequence[onnx.NodeProto], known: Mapping[str, Array], opsets: Mapping[str, int]
) -> dict[str, Array]:
    made = {name for node in nodes for name in node.output}
    read = dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
    inputs = [helper.make_tensor_value_info(name, _element(known[name]), known[name].shape) for name in read]
    names = [name for node in nodes for name in node.output if name]
    model = _model(nodes, inputs, names, opsets)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: Any = session.run(names, {name: known[name] for name in read})
    return dict(zip(names, map(np.asarray, results), strict=True))


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    opsets: Mapping[str, int],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "region", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _element(array: Array) -> int:
    return TensorProto.STRING if array.dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(array.dtype)


def _is_untrue(node: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    """Whether onnx's reference evaluator is known to leave out a part of the definition."""
    if node.op_type in ("GRU", "LSTM", "RNN"):
        return len(node.input) > 4 and bool(node.input[4])  # the lengths of the sequences
    return node.op_type == "Hardmax" and opsets.get("", 1) < 13


def _in_reference(
    node: onnx.NodeProto, known: dict[str, Array], opsets: Mapping[str, int], reason: str
) -> None:
    size = max((known[name].size for name in node.input if name), default=0)
    if size > (_MOST_SLOW if node.op_type in _SLOW else _MOST):
        raise NoDefinition(f"{node.op_type} has no fast kernel in float64")
    if _is_untrue(node, opsets):
        raise NoDefinition(f"{node.op_type} in this form has no definition in float64")
    read = [name for name in dict.fromkeys(node.input) if name]
    inputs = [helper.make_tensor_value_info(name, _element(known[name]), known[name].shape) for name in read]
    names = [name for name in node.output if name]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = onnx.reference.ReferenceEvaluator(_model([node], inputs, names, opsets))
            results: Any = evaluator.run(names, {name: known[name] for name in read})
    except Exception as error:  # the reference evaluator raises what numpy raises
        raise NoDefinition(f"{node.op_type} has no definition in float64") from error
    for name, result in zip(names, results, strict=True):
        if not isinstance(result, np.ndarray | np.generic):
            raise NoDefinition(f"{node.op_type} gives no tensor")
        known[name] = widened(np.asarray(result))
