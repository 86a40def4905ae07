"""What the passes share that make numbers smaller: layers by name, and the model as ORT's tools want it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from graphopt import BadInput, ToolReport
from graphopt_passes import _files, _peers


@dataclass(frozen=True)
class Chosen:
    """The layers of a model that a pass works on, and those that it leaves.

    Attributes:
        taken: The names of the nodes that it works on, in order.
        left: The names of those that it could work on but leaves.
        source: A file of the model in which all nodes have these names.
    """

    taken: tuple[str, ...]
    left: tuple[str, ...]
    source: Path

    @property
    def report(self) -> ToolReport:
        """The report of a pass that worked on them."""
        notes = (f"{len(self.left)} of {len(self.taken) + len(self.left)} layers left as they were",)
        return ToolReport(self.taken, notes if self.left else ())


def layers(source: Path, wanted: Callable[[onnx.NodeProto], bool]) -> tuple[str, ...]:
    """The names of the nodes that a pass works on, in the order of the main graph.

    Args:
        source: The model file.
        wanted: Whether a pass works on a node.
    """
    return tuple(dict.fromkeys(name for name, node in _named(_files.read_structure(source)) if wanted(node)))


def _named(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """The nodes of the main graph, those without a name by their first output."""
    for node in model.graph.node:
        yield node.name or next((name for name in node.output if name), ""), node


def choose(
    step: str, source: Path, known: Iterable[str], disabled: frozenset[str], exclude: Iterable[str]
) -> Chosen:
    """Split layers into those to work on and those to leave, and give every node its name.

    Args:
        step: The name of the pass.
        source: The model file, beside which another one is written where nodes have no names.
        known: All its layers.
        disabled: Layers to leave.
        exclude: Patterns of more of them, as of file names.

    Raises:
        BadInput: A name is no layer, or a pattern fits none.
    """
    names = tuple(known)
    _peers.refuse_unknown(step, disabled, names)
    for pattern in exclude:
        if not fnmatch.filter(names, pattern):
            near = f"it has {', '.join(names[:3])}, ..." if names else "it has none"
            raise BadInput(f"Option exclude of '{step}': no layer of the model fits '{pattern}'; {near}.")
    left = {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude)}
    left |= disabled
    taken = tuple(name for name in names if name not in left)
    return Chosen(taken, tuple(name for name in names if name in left), _with_names(source))


def _with_names(source: Path) -> Path:
    model = _files.read_structure(source)
    if all(node.name for node in model.graph.node):
        return source
    for name, node in _named(model):
        node.name = name
    named = source.with_name("named.onnx")
    named.write_bytes(model.SerializeToString())
    return named


def is_large(source: Path) -> bool:
    """Whether weights must be written to a file of their own."""
    folder = source.parent
    files = (folder / name for name in _files.data_files(_files.read_structure(source)))
    return source.stat().st_size + sum(path.stat().st_size for path in files) > _peers.INSIDE_LIMIT


def constants(source: Path) -> frozenset[str]:
    """The names of the initializers of the main graph."""
    return frozenset(tensor.name for tensor in _files.read_structure(source).graph.initializer)


def dequantized(source: Path) -> frozenset[str]:
    """The values that DequantizeLinear gives: what reads them is quantized already."""
    nodes = _files.read_structure(source).graph.node
    return frozenset(name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output)


def opset(source: Path) -> int:
    """The version of the default operator set."""
    imports = _files.read_structure(source).opset_import
    return max((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), default=1)
