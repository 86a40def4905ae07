"""Freeze symbolic dims to numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx

from graphopt import BadInput, Numerics, OpaquePass, Signature


@dataclass(frozen=True)
class FixDims(OpaquePass):
    """Replace symbolic dims by numbers in inputs, outputs and all shapes between.

    Why it pays:
        With known shapes the shape arithmetic folds away, runtimes plan memory ahead, and compilers for
        accelerators that need static shapes accept the model.

    When it does not apply:
        The model takes only these sizes afterwards. A dim without a name is given as ``INPUT:AXIS``.

    Numerics:
        Exact on feeds of these sizes.

    Source:
        As ``onnxruntime.tools.make_dynamic_shape_fixed``; shapes behind by onnx's shape inference.

    Attributes:
        dims: Size by name of the dim, or by ``INPUT:AXIS``.
        batch: Short for the first axis of every input, where it is symbolic.
    """

    name = "fix-dims"
    numerics = Numerics.EXACT
    isolated = False

    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    batch: int | None = None

    @property
    def signature(self) -> Signature:
        return Signature(changes=True, dims=self._wanted(), feeds=None)

    def _wanted(self) -> dict[str, int]:
        wanted = dict(self.dims)
        if self.batch is not None:
            wanted["*:0"] = self.batch
        return wanted

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        names: dict[str, int] = {}
        for key, size in self._wanted().items():
            if size < 1:
                raise BadInput(f"Pass 'fix-dims': the size of '{key}' must be at least 1, not {size}.")
            names.update(_apply(model, key, size))
        infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
        for dim in _dims(infos):
            if dim.dim_param in names:
                dim.dim_value = names[dim.dim_param]
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise BadInput(f"Pass 'fix-dims': the model does not take these sizes: {error}") from error
        _sharpen(model, inferred)
        return model


def _apply(model: onnx.ModelProto, key: str, size: int) -> dict[str, int]:
    """Set one dim where it is given by place; returns the symbols that it stands for."""
    name, colon, axis = key.rpartition(":")
    if not colon or not axis.isdigit():
        symbols = {dim.dim_param for dim in _dims(model.graph.input) if dim.dim_param}
        if key not in symbols:
            some = f"it has {', '.join(sorted(symbols))}" if symbols else "its inputs have none"
            raise BadInput(f"Pass 'fix-dims': the model has no symbolic dim '{key}'; {some}.")
        return {key: size}
    found: dict[str, int] = {}
    inputs = [info for info in model.graph.input if name in ("*", info.name)]
    if not inputs:
        known = ", ".join(info.name for info in model.graph.input)
        raise BadInput(f"Pass 'fix-dims': the model has no input '{name}'; it has {known}.")
    for info in inputs:
        shape = info.type.tensor_type.shape.dim
        if int(axis) >= len(shape):
            if name == "*":
                continue
            raise BadInput(f"Pass 'fix-dims': input '{name}' has {len(shape)} axes, none {axis}.")
        dim = shape[int(axis)]
        if dim.HasField("dim_value"):
            if name == "*" or dim.dim_value == size:
                continue
            raise BadInput(f"Pass 'fix-dims': axis {axis} of '{name}' is fixed to {dim.dim_value}.")
        if dim.dim_param:
            found[dim.dim_param] = size
        else:
            dim.dim_value = size
    return found


def _dims(infos: list[onnx.ValueInfoProto] | object) -> Iterator[onnx.TensorShapeProto.Dimension]:
    for info in infos:  # pyright: ignore[reportGeneralTypeIssues]
        yield from info.type.tensor_type.shape.dim


def _sharpen(model: onnx.ModelProto, inferred: onnx.ModelProto) -> None:
    """Take over the numbers that inference proves, and nothing else."""
    shapes = {
        info.name: info.type.tensor_type.shape.dim
        for info in (*inferred.graph.output, *inferred.graph.value_info)
    }
    for info in (*model.graph.output, *model.graph.value_info):
        known = shapes.get(info.name)
        own = info.type.tensor_type.shape.dim
        if known is None or len(known) != len(own):
            continue
        for dim, proven in zip(own, known, strict=True):
            if not dim.HasField("dim_value") and proven.HasField("dim_value"):
                dim.dim_value = proven.dim_value
