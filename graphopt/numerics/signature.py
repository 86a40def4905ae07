"""What a model promises to its callers: inputs, outputs, opset imports and metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphopt.errors import BadInput
from graphopt.model import Interface, Model, Port
from graphopt.numerics.feeding.sizes import resolve, shapes_of
from graphopt.pipeline.settings import SessionSettings
from graphopt.rewrite.passes import Signature


@dataclass(frozen=True, slots=True)
class Promise:
    """What a model promised at one moment, kept while passes change it.

    Attributes:
        interface: Its inputs and outputs.
        metadata: Its metadata.
    """

    interface: Interface
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, model: Model) -> Promise:
        """What ``model`` promises now."""
        return cls(model.interface(), dict(model.ir.metadata_props))


def signature_faults(source: Promise, candidate: Model, changes: Sequence[Signature] = ()) -> list[str]:
    """What of the source's signature the candidate breaks.

    Args:
        source: What the source promised.
        candidate: The model now.
        changes: What passes declared that they change, in order. A frozen dim must be a number in the
            inputs; a pass that maps feeds or outputs answers for them itself.

    Returns:
        One phrase for each fault, the first one the gravest.
    """
    before, after = source.interface, candidate.interface()
    faults: list[str] = []
    frozen: dict[str, int] = {}
    for change in changes:
        frozen.update(change.dims)
    if not any(change.feeds for change in changes):
        shapes = {port.name: port.shape for port in before.inputs if port.shape is not None}
        sizes, _ = resolve(frozen, shapes_of(shapes))
        kept = {port.name for port in after.inputs}
        freezes = any(change.defaults for change in changes)
        expected = [
            _frozen(port, sizes)
            for port in before.inputs
            if not (freezes and port.optional) or port.name in kept
        ]
        faults.extend(_port_faults("input", expected, after.inputs, exact=True))
    if not any(change.outputs for change in changes):
        faults.extend(_port_faults("output", before.outputs, after.outputs, exact=not frozen))
    faults.extend(_import_faults(candidate))
    faults.extend(metadata_faults(source, candidate))
    return faults


def sizes_at_load(source: Model, settings: SessionSettings) -> dict[str, int]:
    """The sizes that a session fixes dims of the inputs to when it loads the model, by dim or INPUT:AXIS.

    Raises:
        BadInput: No input has such a dim: ONNX Runtime would pass over it without a word.
    """
    inputs = [value for value in source.ir.graph.inputs if value.shape is not None]
    names = {str(dim.value) for value in inputs for dim in value.shape or () if not isinstance(dim, int)}
    denoted: dict[str, list[str]] = {}
    for value in inputs:
        for axis in range(len(value.shape or ())):
            denotation = value.shape.get_denotation(axis) if value.shape is not None else None
            if denotation:
                denoted.setdefault(denotation, []).append(f"{value.name}:{axis}")
    for kind, said, known in (("dim", settings.dims, names), ("denotation", settings.denotations, denoted)):
        for name, _ in said:
            if name not in known:
                there = ", ".join(sorted(known)) or "none"
                raise BadInput(f"A session cannot fix the {kind} '{name}': the model's inputs have {there}.")
    places = {place: size for name, size in settings.denotations for place in denoted[name]}
    return {**dict(settings.dims), **places}


def loose_faults(source: Promise, candidate: Model) -> list[str]:
    """Like `signature_faults`, for a model from anywhere: names, order and types, and shapes that clash."""
    before, after = source.interface, candidate.interface()
    return [
        *_port_faults("input", before.inputs, after.inputs, exact=False),
        *_port_faults("output", before.outputs, after.outputs, exact=False),
        *_import_faults(candidate),
    ]


def metadata_faults(source: Promise, candidate: Model) -> list[str]:
    """The entries of the source's metadata that are lost or changed."""
    kept = candidate.ir.metadata_props
    lost = [key for key, value in source.metadata.items() if kept.get(key) != value]
    if not lost:
        return []
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return [f"the metadata '{lost[0]}'{more} is lost or changed"]


def _frozen(port: Port, sizes: Mapping[str, int]) -> Port:
    if port.shape is None:
        return port
    named = shapes_of({port.name: port.shape})[port.name].dims
    shape = tuple(
        sizes[name] if isinstance(name, str) and name in sizes else dim
        for name, dim in zip(named, port.shape, strict=True)
    )
    return Port(port.name, port.kind, port.dtype, shape, port.optional)


def _port_faults(kind: str, before: Sequence[Port], after: Sequence[Port], *, exact: bool) -> Iterator[str]:
    names, others = [port.name for port in before], [port.name for port in after]
    if names != others:
        yield _name_fault(kind, names, others)
        return
    for left, right in zip(before, after, strict=True):
        retyped = (left.kind, left.dtype) != (right.kind, right.dtype)
        reshaped = left.shape != right.shape
        if not exact:
            retyped = retyped and "unknown" not in (left.kind, right.kind)
            reshaped = _clash(left, right)
        if retyped or reshaped:
            yield f"the {kind} {right} was {left}"
        elif left.optional != right.optional:
            yield f"the {kind} {right} {'has got' if right.optional else 'has lost'} a default"


def _name_fault(kind: str, names: list[str], others: list[str]) -> str:
    lost = [name for name in names if name not in set(others)]
    new = [name for name in others if name not in set(names)]
    if not lost and not new:
        return f"the {kind}s come in another order: {', '.join(others)} for {', '.join(names)}"
    parts = [f"lost the {kind} '{lost[0]}'"] if lost else []
    parts += [f"got a new {kind} '{new[0]}'"] if new else []
    return f"the model {' and '.join(parts)}"


def _clash(left: Port, right: Port) -> bool:
    if left.shape is None or right.shape is None:
        return False
    if len(left.shape) != len(right.shape):
        return True
    pairs = zip(left.shape, right.shape, strict=True)
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)


def _import_faults(candidate: Model) -> Iterator[str]:
    model = candidate.ir
    imports = [model.opset_imports, *(function.opset_imports for function in model.functions.values())]
    imported = {_domain(domain) for domains in imports for domain in domains}
    for op in candidate.op_counts():
        domain = op.rpartition("::")[0]
        if _domain(domain) not in imported:
            yield f"the opset of '{domain or 'ai.onnx'}' is used and not imported"
            return


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
