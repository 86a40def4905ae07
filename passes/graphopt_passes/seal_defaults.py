"""Make weights constants that a caller could replace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from graphopt import BadInput, Numerics, OpaquePass, Signature, ToolReport
from graphopt_passes import _files

_CONSTANT_BELOW = 4


@dataclass(frozen=True)
class SealDefaults(OpaquePass):
    """Remove inputs that have a default, so that the default is a constant.

    Example:
        seal-defaults
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 2] x, float[2, 2] w = {1, 2, 3, 4}) => (float[1, 2] y) {
            y = MatMul (x, w)
        }

    Why it pays:
        Older exporters list every weight among the inputs. Then a caller may feed another one, so that
        neither passes nor a runtime may fold, fuse or reorder it: a face detector takes four times as long
        in ONNX Runtime as with constants.

    When it does not apply:
        Below ir_version 4, where such weights are constants already. It is in no pipeline, as whoever feeds
        such an input no longer can: list it before them, ``seal-defaults,default``.

    Numerics:
        Exact for who does not feed these inputs.

    Source:
        ONNX Runtime's remove_initializer_from_input, and the warning that it gives on such models.

    Attributes:
        keep: The inputs to leave as they are.
    """

    name = "seal-defaults"
    numerics = Numerics.EXACT
    isolated = False

    keep: tuple[str, ...] = ()

    @property
    def signature(self) -> Signature:
        return Signature(changes=True, feeds=_unchanged)

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        model = self.transform(_files.read_structure(source), disabled)
        _files.write_structure(model, source, target)
        return ToolReport()

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        if disabled:
            raise BadInput("Pass 'seal-defaults' has no components to leave out.")
        graph = model.graph
        known = {info.name for info in graph.input}
        if unknown := [name for name in self.keep if name not in known]:
            raise BadInput(f"Pass 'seal-defaults': the model has no input '{unknown[0]}' to keep.")
        if model.ir_version < _CONSTANT_BELOW:
            return model
        defaults = {tensor.name for tensor in graph.initializer}
        defaults |= {tensor.values.name for tensor in graph.sparse_initializer}
        left = [info for info in graph.input if info.name not in defaults or info.name in self.keep]
        del graph.input[:]
        graph.input.extend(left)
        return model


def _unchanged(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
    """Feeds leave out what has a default."""
    return feeds
