"""What the tests of the passes share: models as text, one pass applied to them, and outputs compared."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.parser
import onnx.reference
import onnx.shape_inference
import onnx_ir as ir
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from graphopt import Gate, Model, RewritePass
from graphopt.rewrite.driver import Rewritten, SiteBook, rewrite
from graphopt.rewrite.passes import KEEPS
from graphopt.rewrite.workspace import Workspace

Arrays = Mapping[str, np.ndarray[Any, Any]]
Source = str | onnx.ModelProto | ir.Model

_SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3e38, 6e-8, 1.0, -1.0, 0.5, 2.5, -2.5)


def proto(text: str, **initializers: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """A model from the text of `onnx.parser`, with further initializers of types that it cannot write."""
    found = onnx.parser.parse_model(text)
    found.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in initializers.items())
    return found


def net(body: str, source: str, outputs: str, **constants: Any) -> onnx.ModelProto:
    """A model of these nodes, inputs and outputs as text, with the shapes of its values inferred.

    Args:
        body: The nodes.
        source: The inputs.
        outputs: The outputs.
        constants: The initializers; ``opset`` among them is the version of the default domain, and
            ``infer=False`` leaves the shapes out.
    """
    opset, infer = constants.pop("opset", 17), constants.pop("infer", True)
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({source}) => ({outputs}) {{ {body} }}'
    made = proto(text, **constants)
    return onnx.shape_inference.infer_shapes(made) if infer else made


def model(text: str, **initializers: np.ndarray[Any, Any]) -> ir.Model:
    """Like `proto`, loaded as the engine loads it."""
    return Model.from_proto(proto(text, **initializers)).ir


def apply(step: RewritePass[Any], source: Source, gate: Gate | None = None) -> tuple[ir.Model, Rewritten]:
    """Run a pass over a copy of ``source`` until no site is left, and require a valid model after it."""
    before = to_proto(source)
    after = Model.from_proto(before).ir
    done = rewrite(step, step.name, Workspace(after), SiteBook(gate or Gate()))
    valid(after)
    if step.signature == KEEPS:
        changed = to_proto(after)
        assert _ports(before) == _ports(changed)
        assert list(before.graph.output) == list(changed.graph.output)
    return after, done


def valid(source: Source) -> None:
    """Require what `onnx.checker` demands with strict shape inference, order of the nodes included."""
    onnx.checker.check_model(to_proto(source), full_check=True)


def to_proto(source: Source) -> onnx.ModelProto:
    """The model as a new message."""
    if isinstance(source, str):
        return onnx.parser.parse_model(source)
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    return Model(source).proto()


def ops(source: Source) -> list[str]:
    """The operators of the main graph in order, each with its domain unless that is the default one."""
    nodes = to_proto(source).graph.node
    return [f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes]


def outputs(source: Source, feeds: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """What a model gives: by ONNX Runtime, not optimizing, or the reference where it has no kernel."""
    content = to_proto(source)
    names = [output.name for output in content.graph.output]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(
            content.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found: Any = session.run(names, dict(feeds))
    except NoKernel:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = onnx.reference.ReferenceEvaluator(content).run(names, dict(feeds))
    return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}


def feeds(
    source: Source, sizes: Mapping[str, int] | None = None
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Seeded feeds of several distributions: normal, wide, all zeros of both signs, and special values.

    Args:
        source: The model.
        sizes: The size of each symbolic dim; the others take 3, then 2, then 3 again.
    """
    content = to_proto(source)
    defaults = {item.name for item in content.graph.initializer}
    inputs = [value for value in content.graph.input if value.name not in defaults]
    for kind, size in zip(("normal", "wide", "zeros", "special"), itertools.cycle((3, 2)), strict=False):
        rng = np.random.default_rng(len(kind))
        found: dict[str, np.ndarray[Any, Any]] = {}
        for value in inputs:
            tensor = value.type.tensor_type
            dims = [
                d.dim_value if d.HasField("dim_value") else (sizes or {}).get(d.dim_param, size)
                for d in tensor.shape.dim
            ]
            found[value.name] = _fill(kind, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), dims, rng)
        yield found


def assert_same(
    before: Source, after: Source, sizes: Mapping[str, int] | None = None, tolerance: float | None = None
) -> None:
    """Require the same outputs on all `feeds`, bit for bit; any NaN is equal to any other NaN.

    Args:
        before: The model before the pass.
        after: The model after it.
        sizes: The sizes of symbolic dims.
        tolerance: What may differ, relative to the largest finite output; for passes that are not exact.
    """
    for feed in feeds(before, sizes):
        expected, actual = outputs(before, feed), outputs(after, feed)
        assert list(expected) == list(actual)
        for name in expected:
            _assert_equal(name, expected[name], actual[name], tolerance)


def _assert_equal(
    name: str, expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any], tolerance: float | None
) -> None:
    assert expected.dtype == actual.dtype, name
    assert expected.shape == actual.shape, name
    if tolerance is not None:
        finite = np.abs(expected[np.isfinite(expected)])
        scale = float(finite.max()) if finite.size else 1.0
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale, err_msg=name)
        return
    np.testing.assert_array_equal(actual, expected, err_msg=name)
    if np.issubdtype(expected.dtype, np.floating):
        number = ~np.isnan(expected)
        signs = np.signbit(expected[number]) == np.signbit(actual[number])
        assert signs.all(), f"{name}: {(~signs).sum()} zeros have the other sign"


def _fill(kind: str, dtype: np.dtype[Any], dims: list[int], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if dtype.kind == "b":
        return np.asarray(rng.random(dims) > 0.5)
    if dtype.kind in "iu":
        low, high = (0, 1) if kind == "zeros" else (0, 100) if dtype.kind == "u" else (-100, 100)
        return np.asarray(rng.integers(low, high, dims), dtype)
    if kind == "normal":
        return np.asarray(rng.standard_normal(dims), dtype)
    if kind == "wide":
        with np.errstate(all="ignore"):
            return np.asarray(rng.standard_normal(dims) * 10.0 ** rng.integers(-4, 5, dims)).astype(dtype)
    values = (0.0, -0.0) if kind == "zeros" else _SPECIAL
    with np.errstate(all="ignore"):
        return np.asarray(rng.choice(np.array(values), dims)).astype(dtype)


def _ports(content: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    defaults = {item.name for item in content.graph.initializer}
    return [value for value in content.graph.input if value.name not in defaults]
