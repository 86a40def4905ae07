"""Dynamic 8-bit quantization with ONNX Runtime's quantizer, as a pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graphopt import BadInput, Loss, Numerics, OpaquePass, ToolReport
from graphopt_passes import _files, _lossy

_GEMM_SUFFIX = "_MatMul"


@dataclass(frozen=True)
class QuantizeDynamic(OpaquePass):
    """Quantize weights to 8 bits, and activations where they are used, in the range that they have then.

    Its components are the layers: each can be left in float.

    Example:
        g (float[2, 3] x) => (float[2, 2] y)
        <float[3, 2] w = {1, -2, 3, 4, -5, 6}> {
            a = MatMul (x, w)
            y = Relu (a)
        }

    Why it pays:
        A quarter of the size without calibration data. Transformers and LSTMs get faster on CPUs.

    When it does not apply:
        Convs become ConvInteger, which ONNX Runtime's CPU kernels run slower than float: they are not among
        ``ops``. MatMuls of two activations stay in float.

    Numerics:
        Lossy: 15 dB of signal over error, and 95 % of the decisions, unless ``sqnr_db`` and ``agreement`` say
        otherwise. Weights have one scale a tensor, or one a channel with ``per_channel``.

    Source:
        ``onnxruntime.quantization.quantize_dynamic``.

    Attributes:
        ops: The operators to quantize.
        exclude: Nodes to leave in float, with ``*`` and ``?`` as in names of files.
        per_channel: Whether each output channel of a weight has its own scale.
        reduce_range: Whether weights get 7 bits, for x86 CPUs without VNNI.
        weight: The type of weights.
        sqnr_db: The signal over error that each output must keep, in decibel.
        agreement: The share of the model's decisions that must stay.
    """

    name = "quantize-dynamic"
    numerics = Numerics.LOSSY
    packages = ("onnxruntime", "onnx")

    ops: tuple[str, ...] = ("MatMul", "Gemm", "Attention", "LSTM", "Gather", "EmbedLayerNormalization")
    exclude: tuple[str, ...] = ()
    per_channel: bool = True
    reduce_range: bool = False
    weight: Literal["int8", "uint8"] = "int8"
    sqnr_db: float = 15.0
    agreement: float = 0.95

    @property
    def loss(self) -> Loss:
        return Loss(self.sqnr_db, self.agreement)

    def layers(self, source: Path) -> tuple[str, ...]:
        from onnxruntime.quantization import registry

        known = {*registry.IntegerOpsRegistry, "Gemm"}
        unknown = sorted(set(self.ops) - known)
        if unknown:
            able = ", ".join(sorted(known))
            raise BadInput(f"Pass '{self.name}' cannot quantize '{unknown[0]}'; it can {able}.")
        weights = _lossy.constants(source)
        return _lossy.layers(
            source, lambda node: node.op_type in self.ops and not weights.isdisjoint(node.input)
        )

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        from onnxruntime import quantization as tools

        chosen = _lossy.choose(self.name, source, self.layers(source), disabled, self.exclude)
        if not chosen.taken:
            _files.copy(source, target)
            return ToolReport()
        # The quantizer makes a MatMul and an Add of each Gemm first.
        left = [name for layer in chosen.left for name in (layer, f"{layer}{_GEMM_SUFFIX}")]
        tools.quantize_dynamic(
            chosen.source,
            target,
            op_types_to_quantize=list(self.ops),
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            weight_type=tools.QuantType.QInt8 if self.weight == "int8" else tools.QuantType.QUInt8,
            nodes_to_exclude=left,
            use_external_data_format=_lossy.is_large(source),
            extra_options={"MatMulConstBOnly": True},
        )
        return chosen.report
