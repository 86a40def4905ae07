"""Conversion to float16 with ONNX Runtime's converter, as a pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt import KEEPS, Loss, Numerics, OpaquePass, Signature, ToolReport
from graphopt_passes import _files, _lossy, _peers


def _halved(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: _half(array) for name, array in arrays.items()}


def _half(array: Any) -> Any:
    if isinstance(array, np.ndarray) and array.dtype == np.float32:
        with np.errstate(over="ignore"):
            return array.astype(np.float16)
    return array


_HALF = Signature(changes=True, feeds=_halved, outputs=_halved)


@dataclass(frozen=True)
class Float16(OpaquePass):
    """Convert weights and activations from float32 to float16.

    Its components are the nodes: each can be left in float32, with Casts around it.

    Example:
        g (float[2, 3] x) => (float[2, 2] y)
        <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
            a = MatMul (x, w)
            y = Relu (a)
        }

    Why it pays:
        Half the size, and on GPUs and NPUs about twice the speed.

    When it does not apply:
        ONNX Runtime's CPU provider computes nearly all operators in float32 and casts: a CPU gains size
        only. Values above 65504 become infinite: the check finds these, and ``exclude`` or ``heal`` leaves
        their layers in float32.

    Numerics:
        Lossy: 40 dB of signal over error, and 99 % of the decisions, unless ``sqnr_db`` and ``agreement`` say
        otherwise. 11 bits leave about 70 dB at each tensor, of which deep models keep 50.

    Source:
        ``onnxruntime.transformers.float16``, with its list of operators that stay in float32.

    Attributes:
        keep_io_types: Whether inputs and outputs stay float32.
        block: More operators that stay in float32.
        exclude: Nodes to leave in float32, with ``*`` and ``?`` as in names of files.
        min_positive: Weights that are smaller and not zero become this.
        max_finite: Weights that are larger become this.
        force_weights: Whether weights that only nodes in float32 use are stored as float16 as well.
        sqnr_db: The signal over error that each output must keep, in decibel.
        agreement: The share of the model's decisions that must stay.
    """

    name = "float16"
    numerics = Numerics.LOSSY
    packages = ("onnxruntime", "onnx")

    keep_io_types: bool = True
    block: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_positive: float = 5.96e-08
    max_finite: float = 65504.0
    force_weights: bool = False
    sqnr_db: float = 40.0
    agreement: float = 0.99

    @property
    def signature(self) -> Signature:
        return KEEPS if self.keep_io_types else _HALF

    @property
    def loss(self) -> Loss:
        return Loss(self.sqnr_db, self.agreement)

    def layers(self, source: Path) -> tuple[str, ...]:
        from onnxruntime.transformers import float16

        blocked = {*float16.DEFAULT_OP_BLOCK_LIST, *self.block, *_NO_FLOATS}
        other = _not_float32(_files.read_structure(source))
        return _lossy.layers(
            source,
            lambda node: node.op_type not in blocked and not other.issuperset((*node.input, *node.output)),
        )

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        from onnxruntime.transformers import float16, onnx_model

        chosen = _lossy.choose(self.name, source, self.layers(source), disabled, self.exclude)
        if not chosen.taken:
            _files.copy(source, target)
            return ToolReport()
        model = onnx.load(chosen.source)
        if not _lossy.is_large(source):
            model = onnx.shape_inference.infer_shapes(model)
        converted = float16.convert_float_to_float16(
            model,
            min_positive_val=self.min_positive,
            max_finite_val=self.max_finite,
            keep_io_types=self.keep_io_types,
            disable_shape_infer=True,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *self.block],
            node_block_list=list(chosen.left),
            force_fp16_initializers=self.force_weights,
        )
        # It appends Casts at the end.
        onnx_model.OnnxModel(converted).topological_sort()
        _peers.save(converted, target)
        return chosen.report


_NO_FLOATS = ("Shape", "Size", "NonZero", "ArgMax", "ArgMin", "Cast", "CastLike")
"""Operators that leave no float behind, so that there is nothing to lose, or only change the type."""


def _not_float32(model: onnx.ModelProto) -> set[str]:
    """The values of the main graph that are known to be of another type; an omitted one is of none."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {
        info.name
        for info in (*graph.input, *graph.value_info, *graph.output)
        if info.type.tensor_type.elem_type not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.FLOAT)
    }
    found |= {tensor.name for tensor in graph.initializer if tensor.data_type != onnx.TensorProto.FLOAT}
    return {"", *found}
