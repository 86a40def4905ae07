"""Take away the right to replace a weight, so that passes and runtimes may read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from graphopt import BadInput, Numerics, OpaquePass, Signature, ToolReport
from graphopt_passes import _files

_FIRST_IR = 4


@dataclass(frozen=True)
class FreezeInitializers(OpaquePass):
    """Remove inputs of the model that an initializer gives a value to, so that the value is constant.

    Attributes:
        names: Those to freeze; left out, all of them.

    Example:
        g (float[2, 3] x, float[3, 2] w) => (float[2, 2] y)
        <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
            y = MatMul (x, w)
        }

    Why it pays:
        An initializer that is also an input can be replaced by the caller in every run, so that no
        pass folds it and no runtime packs it: ONNX Runtime leaves the weights of a Conv unblocked, and
        BatchNormalization beside it. Old exporters wrote all weights so.

    When it does not apply:
        Where callers do feed another value for one of them: name those that they do not in ``names``.

    Numerics:
        Exact on feeds that leave the values as they are.

    Source:
        As ``remove_initializer_from_input`` of ONNX Runtime; inputs and initializers in the ONNX IR
        specification, from version 4 on.
    """

    name = "freeze-initializers"
    numerics = Numerics.EXACT
    isolated = False

    names: tuple[str, ...] = ()

    @property
    def signature(self) -> Signature:
        return Signature(changes=True, defaults=True)

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        model = self.transform(_files.read_structure(source), disabled)
        _files.write_structure(model, source, target)
        return ToolReport()

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        if disabled:
            raise BadInput("Pass 'freeze-initializers' has no components to leave out.")
        graph = model.graph
        valued = {tensor.name for tensor in graph.initializer}
        valued.update(sparse.values.name for sparse in graph.sparse_initializer)
        for name in self.names:
            if name not in valued or all(info.name != name for info in graph.input):
                raise BadInput(f"Pass 'freeze-initializers': '{name}' is not an input with an initializer.")
        wanted = valued.intersection(self.names) if self.names else valued
        kept = [info for info in graph.input if info.name not in wanted]
        if len(kept) < len(graph.input):
            # Before, every initializer had to be an input; only from this version on need none be.
            model.ir_version = max(model.ir_version, _FIRST_IR)
            del graph.input[:]
            graph.input.extend(kept)
        return model
