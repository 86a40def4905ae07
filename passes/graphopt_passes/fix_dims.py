"""Freeze symbolic dims to numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.shape_inference

from graphopt import BadInput, Numerics, OpaquePass, Signature, ToolReport
from graphopt_passes import _files, _shapes

Dim = onnx.TensorShapeProto.Dimension


@dataclass(frozen=True)
class FixDims(OpaquePass):
    """Replace symbolic dims by numbers in inputs, outputs and all shapes between.

    Example:
        fix-dims{batch=1}
        g (float[N, 3] x) => (float[N, 2] y)
        <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
            a = MatMul (x, w)
            y = Relu (a)
        }

    Why it pays:
        With known shapes the shape arithmetic folds away, runtimes plan memory ahead, and compilers for
        accelerators that need static shapes accept the model.

    When it does not apply:
        The model takes only these sizes afterwards. Sizes that shape inference proves impossible are
        refused. Shapes without a declaration stay so: what is known is made exact, nothing is added.

    Numerics:
        Exact on feeds of these sizes.

    Source:
        As ``onnxruntime.tools.make_dynamic_shape_fixed``; shapes behind by onnx's shape inference.

    Attributes:
        dims: Size by name of the dim, or by ``INPUT:AXIS`` for one without a name.
        batch: Short for the first axis of every input, where it is symbolic.
    """

    name = "fix-dims"
    numerics = Numerics.EXACT
    isolated = False

    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    batch: int | None = None

    @property
    def signature(self) -> Signature:
        return Signature(changes=True, dims=self._wanted())

    def _wanted(self) -> dict[str, int]:
        return {**self.dims, **({} if self.batch is None else {"*:0": self.batch})}

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        model = self.transform(_files.read_structure(source), disabled)
        _files.write_structure(model, source, target)
        return ToolReport()

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        if disabled:
            raise BadInput("Pass 'fix-dims' has no components to leave out.")
        if not self._wanted():
            raise BadInput("Pass 'fix-dims' was not told what to freeze: set batch=1 or dims=[NAME=SIZE].")
        symbolic = _shapes.without_weights(model)
        inputs = _Inputs(_shapes.open_inputs(model))
        for key, size in self.dims.items():
            inputs.freeze(key, size)
        if self.batch is not None:
            inputs.freeze_batch(self.batch)
        for dim in _shapes.declared_dims(model):
            if dim.dim_param in inputs.sizes:
                dim.dim_value = inputs.sizes[dim.dim_param]
        _check_defaults(model.graph)
        _shapes.sharpen(model, _inferred(_shapes.without_weights(model), symbolic))
        return model


class _Inputs:
    """The inputs of a model while their dims are being frozen.

    Attributes:
        sizes: The sizes of the symbols so far; unnamed dims are set at once.
    """

    def __init__(self, infos: Iterable[onnx.ValueInfoProto]) -> None:
        self._dims = {info.name: list(_shapes.dims_of(info.type)) for info in infos}
        self.sizes: dict[str, int] = {}

    def freeze(self, key: str, size: int) -> None:
        """Freeze the symbol ``key``, or the dim at the place ``INPUT:AXIS``."""
        _check_size(key, size)
        if any(dim.dim_param == key for dims in self._dims.values() for dim in dims):
            self._set_symbol(key, size)
            return
        name, _, axis = key.rpartition(":")
        if name not in self._dims or not axis.isdecimal():
            open_dims = ", ".join(dict.fromkeys(self._open_dims())) or "none"
            raise BadInput(f"Pass 'fix-dims': the model has no symbolic dim '{key}'; it has {open_dims}.")
        if int(axis) >= len(self._dims[name]):
            raise BadInput(
                f"Pass 'fix-dims': input '{name}' declares {len(self._dims[name])} axes, none {axis}."
            )
        dim = self._dims[name][int(axis)]
        if _shapes.is_known(dim) and dim.dim_value != size:
            raise BadInput(
                f"Pass 'fix-dims': axis {axis} of input '{name}' is {dim.dim_value} and cannot be {size}."
            )
        self._set(dim, size)

    def freeze_batch(self, size: int) -> None:
        """Freeze the first axis of every input where it is symbolic."""
        _check_size("batch", size)
        first = {name: dims[0] for name, dims in self._dims.items() if dims}
        unknown = [dim for dim in first.values() if not _shapes.is_known(dim)]
        symbols = sorted({dim.dim_param for dim in unknown if dim.dim_param})
        if len(symbols) > 1:
            raise BadInput(
                f"Pass 'fix-dims': the inputs begin with different dims, {' and '.join(symbols)}, so that"
                f" 'batch' could mean either: write dims=[{symbols[0]}={size}]."
            )
        if not unknown and all(dim.dim_value != size for dim in first.values()):
            fixed = ", ".join(f"{name} with {dim.dim_value}" for name, dim in first.items()) or "none"
            raise BadInput(f"Pass 'fix-dims': no input begins with a symbolic dim for batch={size}: {fixed}.")
        for dim in unknown:
            self._set(dim, size)

    def _set(self, dim: Dim, size: int) -> None:
        if dim.dim_param:
            self._set_symbol(dim.dim_param, size)
        else:
            dim.dim_value = size

    def _set_symbol(self, symbol: str, size: int) -> None:
        former = self.sizes.setdefault(symbol, size)
        if former != size:
            raise BadInput(f"Pass 'fix-dims': dim '{symbol}' is to be both {former} and {size}.")

    def _open_dims(self) -> Iterator[str]:
        for name, dims in self._dims.items():
            for axis, dim in enumerate(dims):
                if not _shapes.is_known(dim):
                    yield dim.dim_param or f"{name}:{axis}"


def _check_defaults(graph: onnx.GraphProto) -> None:
    declared = {info.name: list(_shapes.dims_of(info.type)) for info in (*graph.input, *graph.value_info)}
    for tensor in graph.initializer:
        for axis, (dim, size) in enumerate(zip(declared.get(tensor.name, ()), tensor.dims, strict=False)):
            if _shapes.is_known(dim) and dim.dim_value != size:
                raise BadInput(
                    f"Pass 'fix-dims': axis {axis} of '{tensor.name}' is {size} in the value that the model"
                    f" gives it, and cannot be {dim.dim_value}."
                )


def _check_size(key: str, size: int) -> None:
    if size < 1:
        raise BadInput(f"Pass 'fix-dims': the size of '{key}' must be at least 1, not {size}.")


def _inferred(frozen: onnx.ModelProto, symbolic: onnx.ModelProto) -> onnx.ModelProto:
    """Infer shapes; an error that the symbolic model does not have is the fault of the sizes."""
    infer = onnx.shape_inference.infer_shapes
    try:
        return infer(frozen, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        reason = " ".join(str(error).replace("[ShapeInferenceError]", "").split())[:300]
    try:
        infer(symbolic, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return infer(frozen, data_prop=True)
    except ValueError:
        return frozen  # of an operator of another domain that lacks an attribute, whatever the mode
    raise BadInput(f"Pass 'fix-dims': the model does not take these sizes: {reason}")
