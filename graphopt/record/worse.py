"""In what one run is worse than another, for a build that must not regress."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from graphopt.errors import BadInput
from graphopt.record.data import DiagnosisEntry, Record, ResultEntry, Status, Verdict, severity

FAILED: tuple[Status, ...] = ("broken", "crashed", "timed out", "rolled back", "healed")
LATENCY = "latency"
"""The kind that only sweeps have."""
_DIAGNOSES = ("right", "undecided", "unexplained", "culprits")


class Finding(msgspec.Struct, frozen=True):
    """One thing in which the second run is worse.

    Attributes:
        kind: What was asked for: ``nodes``, ``verdict``, ``components`` or ``size``.
        text: What turned, in one phrase.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def read_kinds(texts: Sequence[str], *, sweeps: bool = False) -> tuple[str, ...]:
    """Read what a build must not regress in: kinds, several to a text with commas between.

    Args:
        texts: What was said.
        sweeps: Whether sweeps are compared, which have one more kind than records.

    Raises:
        BadInput: There is no such kind.
    """
    known = [*_KINDS, LATENCY] if sweeps else [*_KINDS]
    kinds = [kind.strip() for text in texts for kind in text.split(",") if kind.strip()]
    for kind in kinds:
        if kind == LATENCY and not sweeps:
            raise BadInput("Cannot fail on 'latency' of records, which measure none: compare two sweeps.")
        if kind not in known:
            raise BadInput(f"Cannot fail on '{kind}': say {', '.join(known[:-1])} or {known[-1]}.")
    return tuple(dict.fromkeys(kinds))


def findings(a: Record, b: Record, kinds: Collection[str]) -> list[Finding]:
    """In what run ``b`` is worse than run ``a``.

    Args:
        a: The run that is taken for good.
        b: The run to judge.
        kinds: ``nodes``: more nodes in the result. ``verdict``: a worse one of the result, as it is loaded,
            of a diagnosis or of the source itself, a pass that fails or is healed and did not before, a new
            culprit, or no result. ``components``: a component of a tool, or all of a pass, that has an
            effect in one of the runs only. ``size``: a larger file.

    Raises:
        BadInput: A record does not say what is asked for.
    """
    return [Finding(kind, text) for kind in _KINDS if kind in kinds for text in _KINDS[kind](a, b)]


def fired(record: Record) -> dict[str, set[str]]:
    """The components that had an effect, by pass instance; empty for a pass that had none or has none."""
    found: dict[str, set[str]] = {}
    for entry in record.passes:
        found.setdefault(entry.instance or entry.name, set()).update(entry.components)
    return found


def _nodes(a: Record, b: Record) -> Iterable[str]:
    return _larger(a, b, "number of nodes", lambda result: result.nodes)


def _size(a: Record, b: Record) -> Iterable[str]:
    return _larger(a, b, "size of a file", lambda result: result.file_bytes)


def _larger(a: Record, b: Record, what: str, read: Callable[[ResultEntry], int | None]) -> Iterable[str]:
    old = None if a.result is None else read(a.result)
    new = None if b.result is None else read(b.result)
    if b.result is None and old is not None:
        yield f"{old} > none, as the second run has no result"
        return
    for record, number, which in ((a, old, "first"), (b, new, "second")):
        if number is None:
            why = "nothing came out of it" if record.result is None else "it wrote no file"
            raise BadInput(f"The {which} record has no {what}: {why}; use another, or do not fail on it.")
    assert old is not None
    assert new is not None
    if new > old:
        yield f"{old} > {new} ({new - old:+})"


def _verdicts(a: Record, b: Record) -> Iterable[str]:
    if a.diagnosis is not None and b.diagnosis is not None:
        yield from _turned_diagnosis(a.diagnosis, b.diagnosis)
    pairs: list[tuple[str, Verdict, Verdict]] = []
    if a.result is not None and b.result is not None:
        pairs.append(("result", a.result.verdict, b.result.verdict))
        pairs.append(("as loaded", a.result.as_loaded.verdict, b.result.as_loaded.verdict))
        asked = {witness.runtime: witness for witness in a.result.witnesses}
        pairs.extend(
            (f"in {witness.runtime}", asked[witness.runtime].verdict, witness.verdict)
            for witness in b.result.witnesses
            if witness.runtime in asked
        )
    elif a.result is not None and b.diagnosis is None:
        yield f"result {a.result.verdict} > none, as the run failed"
    if a.reference is not None and b.reference is not None:
        pairs.append(("source", a.reference.check.verdict, b.reference.check.verdict))
    for name, old, new in pairs:
        if severity(new) > severity(old):
            yield f"{name} {old} > {new}"
    before = {entry.instance for entry in a.passes if entry.status in FAILED}
    for entry in b.passes:
        if entry.status in FAILED and entry.instance not in before:
            yield f"{entry.instance} is {entry.status}"
    known = {tuple(culprit.members) for culprit in a.culprits}
    for culprit in b.culprits:
        if tuple(culprit.members) not in known:
            yield f"{' with '.join(map(str, culprit.members))} breaks the model"


def _turned_diagnosis(a: DiagnosisEntry, b: DiagnosisEntry) -> Iterable[str]:
    if _DIAGNOSES.index(b.verdict) > _DIAGNOSES.index(a.verdict):
        yield f"diagnosis {a.verdict} > {b.verdict}"


def _components(a: Record, b: Record) -> Iterable[str]:
    old, new = fired(a), fired(b)
    active, now = _active(a), _active(b)
    for instance in dict.fromkeys([*old, *new]):
        if (instance in active) != (instance in now):
            what = "no longer changes anything" if instance in active else "now changes something"
            yield f"{instance} {what}"
            continue
        left, right = old.get(instance, set()), new.get(instance, set())
        yield from (f"{instance}/{name} no longer fires" for name in sorted(left - right))
        yield from (f"{instance}/{name} now fires" for name in sorted(right - left))


def _active(record: Record) -> set[str]:
    return {
        entry.instance or entry.name
        for entry in record.passes
        if entry.status in ("changed", "healed") or entry.rewrites
    }


_KINDS: dict[str, Callable[[Record, Record], Iterable[str]]] = {
    "nodes": _nodes,
    "verdict": _verdicts,
    "components": _components,
    "size": _size,
}
