"""A pass written with GraphSurgeon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt import Numerics, SurgeonPass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_IDEMPOTENT = ("Abs", "Ceil", "Floor", "Relu")


@dataclass(frozen=True)
class DropRepeated(SurgeonPass):
    """Replace ``Relu(Relu(x))`` by ``Relu(x)``; likewise Abs, Ceil and Floor.

    Why it pays:
        One pass over the activation less.

    When it does not apply:
        Inside of subgraphs. Where the inner value is read elsewhere, its node stays.

    Numerics:
        Exact: the second application changes nothing.

    Source:
        The ONNX operator specifications.
    """

    name = "example-drop-repeated"
    numerics = Numerics.EXACT

    def surgery(self, graph: gs.Graph) -> None:
        for node in graph.nodes:
            while node.op in _IDEMPOTENT and node.inputs[0].inputs and node.i().op == node.op:
                node.inputs[0] = node.i().inputs[0]
        graph.cleanup()
