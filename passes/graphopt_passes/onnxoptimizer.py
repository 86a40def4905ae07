"""The optimizer of the ONNX project, as a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from graphopt import Numerics, OpaquePass, ToolReport
from graphopt_passes import _files, _peers

_TRACED_LIMIT = 500_000_000


@dataclass(frozen=True)
class OnnxOptimizer(OpaquePass):
    """Fuse and eliminate nodes with onnxoptimizer.

    The result is that of ``onnxoptimizer.optimize(model)``: its passes for fusion and elimination, each
    once, in its own order. Each of them is a component.

    Example:
        g (float[4, 3] x) => (float[4, 2] y)
        <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2] bias = {1, 2}> {
            a = MatMul (x, w)
            b = Add (a, bias)
            c = Identity (b)
            y = Relu (c)
        }

    Why it pays:
        It removes nodes that do nothing, folds what is known of shapes, and fuses BatchNormalization,
        biases, Pads and Transposes into the operators beside them. Other tools build on it.

    When it does not apply:
        Bodies of functions are left alone. What cannot be switched off is the way into its own
        representation and back, which drops the metadata of nodes. How it names new values depends on
        passes that did nothing as well.

    Numerics:
        Reassociates: fused weights are rounded once more.

    Source:
        onnxoptimizer. A pass is reported where the model is another one after it than before it; for a
        model above 500 MB that would take too long, and all that ran are reported.
    """

    name = "onnxoptimizer"
    numerics = Numerics.REASSOCIATES
    packages = ("onnxoptimizer",)
    holds_weights = True

    def components(self) -> frozenset[str]:
        return frozenset(_default_passes())

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        passes = _default_passes()
        _peers.refuse_unknown(self.name, disabled, passes)
        chosen = [name for name in passes if name not in disabled]
        files = _files.data_files(_files.read_structure(source))
        size = sum(path.stat().st_size for path in (source, *(source.parent / name for name in files)))
        native = _peers.load("onnxoptimizer").C
        if size > _peers.INSIDE_LIMIT:
            native.optimize_from_path(str(source), str(target), chosen, f"{target.name}.data")
            return _untraced(chosen, size)
        content = onnx.load(source).SerializeToString() if files else source.read_bytes()

        def run(count: int) -> bytes:
            return native.optimize(content, chosen[:count])

        result = run(len(chosen))
        target.write_bytes(result)
        if size > _TRACED_LIMIT:
            return _untraced(chosen, size)
        return ToolReport(tuple(chosen[index] for index in _changes(run, len(chosen), result)))


def _default_passes() -> Sequence[str]:
    tool: Any = _peers.load("onnxoptimizer")
    return list(tool.get_fuse_and_elimination_passes())


def _untraced(chosen: Sequence[str], size: int) -> ToolReport:
    note = f"which of its passes changed a model of {size >> 20} MB was not looked into: all are listed"
    return ToolReport(tuple(chosen), (note,))


def _changes(run: Callable[[int], bytes], count: int, result: bytes) -> list[int]:
    """Which passes changed the model, where ``run(n)`` is what the first n of them make of it.

    One after the other in runs of their own they would do something else: names of new values and what is
    known of shapes get lost in between.
    """
    found: list[int] = []

    def search(low: int, before: bytes, high: int, after: bytes) -> None:
        if before == after:
            return
        if high - low == 1:
            found.append(low)
            return
        middle = (low + high) // 2
        between = run(middle)
        search(low, before, middle, between)
        search(middle, between, high, after)

    search(0, run(0), count, result)
    return found
