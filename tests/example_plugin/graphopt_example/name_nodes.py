"""A pass written with GraphSurgeon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt import Numerics, SurgeonPass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class NameNodes(SurgeonPass):
    """Give every node without a name the name of its first output.

    Why it pays:
        Profilers and error messages name nodes; a nameless one cannot be found.

    When it does not apply:
        A node that has a name keeps it.

    Numerics:
        Exact: names change, nothing else.

    Source:
        None needed.
    """

    name = "example-name-nodes"
    numerics = Numerics.EXACT

    def surgery(self, graph: gs.Graph) -> None:
        for node in graph.nodes:
            if not node.name and node.outputs:
                node.name = f"{node.op}.{node.outputs[0].name}"
