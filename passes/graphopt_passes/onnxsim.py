"""Constant folding by onnxsim, as a pass."""

from __future__ import annotations

import importlib
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.checker
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from graphopt import BadInput, Numerics, OpaquePass, ToolReport
from graphopt_passes import _files, _growth

_PARTS = frozenset({"constant-folding", "shape-inference"})
_LARGEST_STEP = "512MB"  # what a Tile or Expand in between may make


@dataclass(frozen=True)
class OnnxSim(OpaquePass):
    """Fold constants and infer shapes with onnxsim.

    Example:
        g (float[2, 3, 4] x) => (float[2, 12] y)
        <int64 first = {0}, int64[1] axes = {0}, int64[1] rest = {-1}> {
            a = Shape (x)
            b = Gather (a, first)
            c = Unsqueeze (b, axes)
            shape = Concat <axis = 0> (c, rest)
            y = Reshape (x, shape)
        }

    Why it pays:
        Exporters compute shapes, masks and anchors with chains of nodes that depend on nothing but
        constants; folded, they are one tensor, and what reads them can be rewritten.

    When it does not apply:
        What would make the file larger by more than ``fold_limit`` stays computed: a mask of 64 MB, a
        transposed copy of an embedding that is also read as it is. So does what lies in the bodies of
        If, Loop and functions, and what depends on an input that has a default. A model that onnx's
        checker refuses is left as it was.

    Numerics:
        Reassociates: a folded tensor was computed by the kernels of the machine that folded it, and
        ONNX Runtime sums in another order over a weight, which it packs, than over a computed operand.

    Source:
        onnxsim (onnx-simplifier). Its optimizer is off unless asked for, so that it hides no rewrite of
        graphopt's own passes.

    Attributes:
        optimizer: Whether its own optimizer runs too; each of its passes is then a component.
        fold_limit: How much larger one folded tensor may make the file, as ``64KB``, ``1MB``; a mask
            over 512 tokens in float32 is 1 MB.
    """

    name = "onnxsim"
    numerics = Numerics.REASSOCIATES
    packages = ("onnxsim", "onnxruntime")
    holds_weights = True

    optimizer: bool = False
    fold_limit: str = "1MB"

    def components(self) -> frozenset[str]:
        if not self.optimizer:
            return _PARTS
        native: Any = importlib.import_module("onnxsim.onnxsim_cpp2py_export")
        return _PARTS.union(native._list_optimizers())

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        limit = _growth.parse_size(self.fold_limit)
        if limit is None:
            raise BadInput(f"Pass 'onnxsim': fold_limit '{self.fold_limit}' is no size such as 64KB or 1MB.")
        _refuse_unknown(disabled, self.components())
        model = _files.read_structure(source)
        before = _parts(model)
        defaults = _take_defaults(model, source.parent)
        fold = "constant-folding" not in disabled
        try:
            result = self._simplified(model, source, target, disabled, fold=fold, prepare=bool(defaults))
        except onnx.checker.ValidationError as error:
            # ONNX Runtime may run what it refuses, such as an operator newer than the opset.
            _files.copy(source, target)
            reason = str(error).strip().splitlines()[0]
            return ToolReport(notes=(f"left as it was: onnx's checker refuses the model: {reason}",))
        notes: tuple[str, ...] = ()
        kept = growing = _growth.growing(model.graph, result.graph, limit) if fold else set[str]()
        if kept:
            _growth.keep(model, kept)
            result = self._simplified(model, source, target, disabled, fold=fold, prepare=True)
            growing = _growth.growing(model.graph, result.graph, limit)
            some = "1 node" if len(kept) == 1 else f"{len(kept)} nodes"
            notes = (f"{some} not folded, as the result would make the file larger",)
        if growing is None or growing:
            fold = False
            result = self._simplified(model, source, target, disabled, fold=fold, prepare=True)
            notes = ("no constants folded, as that would make the file larger",)
        if defaults or kept:
            _growth.release(result)
            result.graph.initializer.extend(defaults)
            target.write_bytes(result.SerializeToString())
        folded, inferred = _parts(result)
        components: list[str] = []
        if folded != before[0]:
            # It does not tell which passes of its optimizer did it: all that ran are listed.
            components += sorted(self.components() - disabled - _PARTS)
            components[:0] = ["constant-folding"] if fold else []
        if inferred - before[1]:
            components.append("shape-inference")
        return ToolReport(tuple(components), notes)

    def _simplified(
        self,
        model: onnx.ModelProto,
        source: Path,
        target: Path,
        disabled: frozenset[str],
        *,
        fold: bool,
        prepare: bool,
    ) -> onnx.ModelProto:
        """Run onnxsim from file to file; on ``model``, where that is no more what ``source`` holds."""
        simplify: Any = importlib.import_module("onnxsim").simplify
        with tempfile.TemporaryDirectory(prefix="onnxsim-", dir=target.parent) as folder:
            prepared = Path(folder) / source.name
            if prepare:
                _files.write_structure(model, source, prepared)
            simplify(
                str(prepared if prepare else source),
                check_n=0,
                certify=False,
                perform_optimization=self.optimizer,
                skipped_optimizers=sorted(disabled - _PARTS),
                skip_constant_folding=not fold,
                skip_shape_inference="shape-inference" in disabled,
                tensor_size_threshold=_LARGEST_STEP,
                output_path=str(target),
            )
        return _files.read_structure(target)


def _refuse_unknown(disabled: frozenset[str], known: frozenset[str]) -> None:
    unknown = disabled - known
    if unknown:
        raise BadInput(
            f"Pass 'onnxsim' has no component '{min(unknown)}'; it has {', '.join(sorted(known))}."
        )


def _take_defaults(model: onnx.ModelProto, folder: Path) -> list[onnx.TensorProto]:
    """Remove the defaults of inputs, which onnxsim takes for constants; below ir_version 4 they are."""
    if model.ir_version < 4:
        return []
    inputs = {info.name for info in model.graph.input}
    defaults = [
        onnx.TensorProto.FromString(t.SerializeToString())
        for t in model.graph.initializer
        if t.name in inputs
    ]
    if not defaults:
        return []
    rest = [tensor for tensor in model.graph.initializer if tensor.name not in inputs]
    del model.graph.initializer[:]
    model.graph.initializer.extend(rest)
    for tensor in defaults:
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(folder))
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    return defaults


def _parts(model: onnx.ModelProto) -> tuple[Counter[str], set[str]]:
    """What folding changes, nodes and initializers, and what shape inference adds to, value infos."""
    graph = model.graph
    content = Counter(f"node {node.op_type}" for node in graph.node)
    content.update(tensor.name for tensor in graph.initializer)
    return content, {info.name for info in graph.value_info}
