"""4-bit weights with ONNX Runtime's MatMulNBits quantizer, as a pass."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from graphopt import BadInput, Loss, Numerics, OpaquePass, ToolReport
from graphopt_passes import _files, _lossy, _peers

_QDQ_OPSET, _QDQ_IR = 21, 10


@dataclass(frozen=True)
class QuantizeWeights(OpaquePass):
    """Store the weights of MatMuls in 4 bits, in blocks with a scale of their own; the rest stays in float.

    Its components are the MatMuls with constant weights: each can be left in float.

    Example:
        quantize-weights{block_size=16}
        g (float[2, 16] x) => (float[2, 2] y)
        <float[16, 2] w = {1, -2, 3, 4, -5, 6, 7, -8, 1, 2, -3, 4, 5, 6, -7, 8,
                           2, -1, 4, 3, -6, 5, 8, -7, 2, 1, -4, 3, 6, 5, -8, 7}> {
            y = MatMul (x, w)
        }

    Why it pays:
        An eighth of the size of these weights, which decides the speed of large language models.

    When it does not apply:
        Only MatMuls with one constant matrix, and no Convs or Gemms. ``operator`` makes MatMulNBits of each,
        which only ONNX Runtime has; ``qdq`` is standard ONNX, and needs opset 21 and IR version 10.

    Numerics:
        Lossy: 12 dB of signal over error, and 90 % of the decisions, unless ``sqnr_db`` and ``agreement`` say
        otherwise. 4 bits leave about 20 dB at each weight.

    Source:
        ``onnxruntime.quantization.matmul_nbits_quantizer``, round to nearest.

    Attributes:
        bits: 4 or 8.
        block_size: How many weights share a scale: a power of 2 from 16 on.
        symmetric: Whether blocks have no zero point.
        accuracy_level: What activations are rounded to: 0 or 1 float32, 2 float16, 3 bfloat16, 4 int8, which
            is fastest.
        format: ``operator`` or ``qdq``.
        exclude: Nodes to leave in float, with ``*`` and ``?`` as in names of files.
        sqnr_db: The signal over error that each output must keep, in decibel.
        agreement: The share of the model's decisions that must stay.
    """

    name = "quantize-weights"
    numerics = Numerics.LOSSY
    packages = ("onnxruntime", "onnx", "onnx-ir")

    bits: Literal[4, 8] = 4
    block_size: Literal[16, 32, 64, 128, 256] = 32
    symmetric: bool = False
    accuracy_level: Literal[0, 1, 2, 3, 4] = 0
    format: Literal["operator", "qdq"] = "operator"
    exclude: tuple[str, ...] = ()
    sqnr_db: float = 12.0
    agreement: float = 0.9

    @property
    def loss(self) -> Loss:
        return Loss(self.sqnr_db, self.agreement)

    def layers(self, source: Path) -> tuple[str, ...]:
        tensors = _files.read_structure(source).graph.initializer
        matrices = {tensor.name for tensor in tensors if _is_matrix(tensor)}
        return _lossy.layers(
            source, lambda node: node.op_type == "MatMul" and not node.domain and node.input[1] in matrices
        )

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        quantize, formats = _quantizer()
        chosen = _lossy.choose(self.name, source, self.layers(source), disabled, self.exclude)
        if not chosen.taken:
            _files.copy(source, target)
            return ToolReport()
        model = onnx.load(chosen.source)
        if self.format == "qdq" and (_lossy.opset(source) < _QDQ_OPSET or model.ir_version < _QDQ_IR):
            raise BadInput(
                f"Pass '{self.name}' with format=qdq needs opset {_QDQ_OPSET} and IR version {_QDQ_IR}, and"
                f" the model has {_lossy.opset(source)} and {model.ir_version}: set format=operator."
            )
        quantizer = quantize(
            model,
            bits=self.bits,
            block_size=self.block_size,
            is_symmetric=self.symmetric,
            accuracy_level=self.accuracy_level or None,
            nodes_to_exclude=list(chosen.left),
            quant_format=formats.QOperator if self.format == "operator" else formats.QDQ,
            op_types_to_quantize=("MatMul",),
        )
        quantizer.process()
        _peers.save(quantizer.model.model, target)
        return chosen.report


def _quantizer() -> tuple[Any, Any]:
    """What quantizes, and the formats that it knows.

    Raises:
        BadInput: The installed onnxruntime has none that takes the number of bits.
    """
    import onnxruntime
    from onnxruntime.quantization import QuantFormat

    try:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    except ImportError:
        MatMulNBitsQuantizer = None
    if MatMulNBitsQuantizer and "bits" in inspect.signature(MatMulNBitsQuantizer).parameters:
        return MatMulNBitsQuantizer, QuantFormat
    raise BadInput(
        f"Pass 'quantize-weights' needs a quantizer that onnxruntime {onnxruntime.__version__} does not have:"
        " pip install -U onnxruntime."
    )


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    """Whether the quantizer takes a weight: a matrix of floats, with leading dims of 1 at most."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return tensor.data_type in floats and len(tensor.dims) >= 2 and all(d == 1 for d in tensor.dims[:-2])
