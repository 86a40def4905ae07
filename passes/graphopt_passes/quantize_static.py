"""Static 8-bit quantization with ONNX Runtime's quantizer, as a pass."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from graphopt import BadInput, Calibration, Loss, Numerics, OpaquePass, ToolReport
from graphopt_passes import _files, _lossy

_PER_CHANNEL_OPSET = 13
_WIDE_OPSET = 21


@dataclass(frozen=True)
class QuantizeStatic(OpaquePass):
    """Quantize activations and weights to 8 bits, in ranges measured on the feeds of the run.

    QuantizeLinear and DequantizeLinear are put around the operators (QDQ), which ONNX Runtime fuses into
    integer kernels when it loads the model. Its components are the layers: each can be left in float.

    Example:
        g (float[1, 1, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float[2, 1, 1, 1] w = {1.5, -2}, float[2] b = {0.5, 1}> {
            y = Conv (x, w, b)
        }

    Why it pays:
        A quarter of the size, and on CPUs with VNNI or a dot product about twice the speed.

    When it does not apply:
        Without real data (``--inputs``) the ranges mean little; the record says so. What folds
        BatchNormalization into Convs must come first. ``per_channel`` needs opset 13, 16 bits need 21. On x86
        CPUs without VNNI sums of 8-bit products can overflow: ``reduce_range=true`` there.

    Numerics:
        Lossy: 20 dB of signal over error, and 95 % of the decisions, unless ``sqnr_db`` and ``agreement`` say
        otherwise. 8 bits leave about 35 dB at each tensor; some sixty layers in a row cost 15 of these.

    Source:
        ``onnxruntime.quantization.quantize_static``, without its preprocessing, which optimizes: put the
        passes for that before this one.

    Attributes:
        ops: The operators to quantize; all that the quantizer can if empty.
        exclude: Nodes to leave in float, with ``*`` and ``?`` as in names of files.
        per_channel: Whether each output channel of a weight has its own scale.
        reduce_range: Whether weights get 7 bits.
        activation: The type of activations.
        weight: The type of weights.
        calibrate: How ranges follow from the feeds: ``minmax``, ``entropy`` or ``percentile``.
        symmetric: Whether ranges of activations are symmetric about zero.
        sqnr_db: The signal over error that each output must keep, in decibel.
        agreement: The share of the model's decisions that must stay.
    """

    name = "quantize-static"
    numerics = Numerics.LOSSY
    packages = ("onnxruntime", "onnx")
    wants_feeds = True

    ops: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    per_channel: bool = True
    reduce_range: bool = False
    activation: Literal["uint8", "int8", "uint16", "int16"] = "uint8"
    weight: Literal["int8", "uint8"] = "int8"
    calibrate: Literal["minmax", "entropy", "percentile"] = "minmax"
    symmetric: bool = False
    sqnr_db: float = 20.0
    agreement: float = 0.95

    @property
    def loss(self) -> Loss:
        return Loss(self.sqnr_db, self.agreement)

    def layers(self, source: Path) -> tuple[str, ...]:
        ops = self._ops()
        done = _lossy.dequantized(source)
        return _lossy.layers(
            source,
            lambda node: (
                node.domain in ("", "ai.onnx") and node.op_type in ops and done.isdisjoint(node.input)
            ),
        )

    def _ops(self) -> frozenset[str]:
        from onnxruntime.quantization import registry

        known = frozenset({**registry.QLinearOpsRegistry, **registry.QDQRegistry})
        unknown = sorted(set(self.ops) - known)
        if unknown:
            able = ", ".join(sorted(known))
            raise BadInput(f"Pass '{self.name}' cannot quantize '{unknown[0]}'; it can {able}.")
        return frozenset(self.ops) or known

    def transform_with_feeds(
        self, source: Path, target: Path, disabled: frozenset[str], feeds: Calibration
    ) -> ToolReport:
        from onnxruntime import quantization as tools

        self._demand_opset(source)
        chosen = _lossy.choose(self.name, source, self.layers(source), disabled, self.exclude)
        if not chosen.taken:
            _files.copy(source, target)
            return ToolReport()
        options: dict[str, Any] = {"ActivationSymmetric": self.symmetric}
        if self.calibrate != "minmax":
            options["CalibStridedMinMax"] = 1  # else all activations on all feeds would be in memory at once
        kept: dict[str, Any] = {}
        if feeds.kept is not None and "calibration_cache_path" in _parameters(tools.quantize_static):
            ranges = feeds.kept / f"{self.calibrate}-{'-'.join(sorted(self.ops)) or 'all'}.json"
            kept["calibration_cache_path"] = ranges
        tools.quantize_static(
            chosen.source,
            target,
            cast("Any", _Reader(feeds)),  # importing its base class would load onnxruntime
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=sorted(self._ops()),
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            activation_type=tools.QuantType.from_string(f"Q{_title(self.activation)}"),
            weight_type=tools.QuantType.from_string(f"Q{_title(self.weight)}"),
            nodes_to_exclude=list(chosen.left),
            use_external_data_format=_lossy.is_large(source),
            calibrate_method=tools.CalibrationMethod[_METHODS[self.calibrate]],
            extra_options=options,
            **kept,
        )
        report = chosen.report
        return ToolReport(report.components, (feeds.note, *report.notes))

    def _demand_opset(self, source: Path) -> None:
        version = _lossy.opset(source)
        if self.per_channel and version < _PER_CHANNEL_OPSET:
            raise BadInput(
                f"Pass '{self.name}' quantizes per channel from opset {_PER_CHANNEL_OPSET} on, and the model"
                f" has {version}: set per_channel=false, or export it with a later one."
            )
        if self.activation.endswith("16") and version < _WIDE_OPSET:
            raise BadInput(
                f"Pass '{self.name}' has activations of 16 bits from opset {_WIDE_OPSET} on, and the model"
                f" has {version}: export it with a later one."
            )


_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def _title(name: str) -> str:
    return f"UInt{name[4:]}" if name.startswith("u") else f"Int{name[3:]}"


def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


class _Reader:
    """The feeds as a ``CalibrationDataReader``."""

    def __init__(self, feeds: Calibration) -> None:
        self._feeds = feeds
        self._next: Iterator[dict[str, Any]] = iter(feeds)
        self._left = feeds.count

    def __len__(self) -> int:
        return self._feeds.count

    def set_range(self, start_index: int, end_index: int) -> None:
        # The quantizer goes through all of them in order.
        self._left = end_index - start_index

    def get_next(self) -> dict[str, Any] | None:
        if not self._left:
            return None
        self._left -= 1
        return next(self._next, None)
