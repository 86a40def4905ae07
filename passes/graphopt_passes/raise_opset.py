"""Convert a model to a newer opset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.defs
import onnx.version_converter

from graphopt import BadInput, Numerics, OpaquePass, ToolReport
from graphopt_passes import _files


@dataclass(frozen=True)
class RaiseOpset(OpaquePass):
    """Convert a model to a newer version of the default opset, so that newer operators can be fused to.

    Example:
        raise-opset{version=18}
        <ir_version: 7, opset_import: ["" : 12]>
        g (float[N, 4] x) => (float[N] y) {
            a = Softmax <axis = 1> (x)
            y = ReduceSum <axes = [1], keepdims = 0> (a)
        }

    Why it pays:
        LayerNormalization is there from opset 17, Gelu from 20, RMSNormalization from 23: in an older model
        their parts stay, as no pass raises the opset by itself.

    When it does not apply:
        A version that the model has already changes nothing; an older one, and one that the installed onnx
        does not know, are refused. So are models with local functions (inline them first), and operators
        that onnx's converter cannot convert. Runtimes must know the version: it is a decision of whoever
        deploys the model, and in no pipeline.

    Numerics:
        Exact: an operator is written in its newer form.

    Source:
        onnx.version_converter. What it drops of nodes (metadata, doc strings) is given back by name.

    Attributes:
        version: The wanted version of the default opset.
    """

    name = "raise-opset"
    numerics = Numerics.EXACT
    packages = ("onnx",)

    version: int | None = None

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        if disabled:
            raise BadInput("Pass 'raise-opset' has no components to leave out.")
        model = _files.read_structure(source)
        version, newest = self.version, onnx.defs.onnx_opset_version()
        if version is None:
            raise BadInput("Pass 'raise-opset' was not told to which version: set version=20.")
        current = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
        if not current <= version <= newest:
            raise BadInput(
                f"Pass 'raise-opset' takes versions from {current}, the model's, to {newest}, the newest of"
                f" onnx {onnx.__version__}; not {version}."
            )
        if version == current:
            _files.copy(source, target)
            return ToolReport()
        if model.functions:
            raise BadInput(
                "Pass 'raise-opset' cannot convert the bodies of functions: run inline-functions before."
            )
        try:
            converted = onnx.version_converter.convert_version(model, version)
        except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BadInput(f"Pass 'raise-opset': onnx cannot convert the model: {reason}") from error
        _files.write_structure(converted, source, target)
        return ToolReport(notes=(f"Opset {current} became {version}.",))
