"""The record of a run: everything it did and measured, as data.

The field names are an interface that others script against; ``schema`` names its version. The JSON
Schema beside this module is generated from these classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

SCHEMA: Literal["graphopt.record/1"] = "graphopt.record/1"

Verdict = Literal[
    "identical",
    "rounding",
    "within tolerance",
    "broken",
    "undecided",
    "does not run",
    "not checked",
]
Status = Literal["changed", "unchanged", "broken", "crashed", "timed out", "rolled back", "healed", "skipped"]
Portability = Literal["any runtime", "onnxruntime", "this cpu"]


_SEVERITY: tuple[Verdict, ...] = (
    "identical",
    "rounding",
    "within tolerance",
    "not checked",
    "undecided",
    "does not run",
    "broken",
)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that decides: the most severe; ``not checked`` beside others means ``undecided``."""
    if not verdicts:
        return "not checked"
    verdict = max(verdicts, key=_SEVERITY.index)
    if verdict == "not checked" and any(other != verdict for other in verdicts):
        return "undecided"
    return verdict


class NodeEntry(msgspec.Struct, frozen=True):
    """A node: its name, operator (``domain::Op`` outside the default domain) and graph path."""

    name: str
    op: str
    graph: str = ""


class NodeChanges(msgspec.Struct):
    """The nodes that a pass removed, added and modified."""

    removed: list[NodeEntry] = []
    added: list[NodeEntry] = []
    modified: list[NodeEntry] = []


class LocalCheck(msgspec.Struct):
    """One rewrite checked in place.

    Attributes:
        verdict: Whether it computes the same in float64.
        error: The error in units of what rounding explains there; over 1 is wrong.
        reason: One phrase where it is not clean.
    """

    verdict: Literal["clean", "wrong", "not checked"] = "not checked"
    error: float | None = None
    reason: str = ""


class LocalSummary(msgspec.Struct):
    """The places where a pass changed the model, each computed before and after in float64.

    Attributes:
        clean: How many compute the same.
        wrong: How many do not.
        not_checked: How many could not be looked at, by reason.
    """

    clean: int = 0
    wrong: int = 0
    not_checked: dict[str, int] = {}


class SiteEntry(msgspec.Struct):
    """One rewrite: the text of its key, its number, where it was, and what it removed and added."""

    key: str
    index: int
    graph: str
    node: str
    op: str
    removed: list[str] = []
    added: list[str] = []
    local: LocalCheck = msgspec.field(default_factory=LocalCheck)


class OutputCheck(msgspec.Struct):
    """How one output compares with the reference.

    Attributes:
        name: The output.
        dtype: Its element type, as numpy names it.
        shape: Its shape on the feed with the worst error.
        axis: The axis along which its scale varies most, whose indices are the slices; None for a
            scalar or where no axis stands out.
        worst_slice: The index on that axis with the largest error relative to its tolerance.
        floor: The noise floor of that slice on that feed, of an output that is no float the share of
            elements that rounding changes; None where it was not measured.
        max_abs, max_rel, mean_abs, rmse, cosine, sqnr_db: Error statistics over all feeds; sqnr in
            decibel; None where they are not defined (text, sequences of differing length).
        quantiles: Quantiles of the absolute error by percentage (``"50"``, ``"99.9"``), over an even
            sample of the arrays that are not bit-identical.
        steps: ``max_abs`` in quantization steps, where the output comes from a DequantizeLinear of one scale.
        mismatched: The share of elements outside the tolerance, 0 to 1.
        worst_index: Where the worst element is.
        expected, actual: The worst element's values, reference first.
        verdict: The verdict of this output.
        reason: One sentence that explains the verdict where it needs one.
        local: What local checks say about it.
    """

    name: str
    verdict: Verdict
    dtype: str = ""
    shape: list[int] = []
    axis: int | None = None
    worst_slice: int | None = None
    floor: float | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    mean_abs: float | None = None
    rmse: float | None = None
    cosine: float | None = None
    sqnr_db: float | None = None
    quantiles: dict[str, float] = {}
    steps: float | None = None
    mismatched: float | None = None
    worst_index: list[int] | None = None
    expected: float | str | None = None
    actual: float | str | None = None
    feed: str = ""
    reason: str = ""
    local: LocalCheck | None = None


class CheckEntry(msgspec.Struct):
    """The verdict on a model, with one entry for each output and one sentence.

    Attributes:
        local: What the places say that the pass changed; None where they were not looked at.
    """

    verdict: Verdict
    seconds: float = 0.0
    outputs: list[OutputCheck] = []
    reason: str = ""
    local: LocalSummary | None = None


class ReferenceEntry(msgspec.Struct):
    """The source itself against an outside reference.

    Attributes:
        origin: What it was checked against: ``torch:yolov8n.pt``, ``outputs.npz``.
        check: The verdict on the source.
    """

    origin: str
    check: CheckEntry


class PassEntry(msgspec.Struct):
    """What one pass of the pipeline did, in one round of the fixpoint that it is in, if it is in one.

    Attributes:
        instance: The name with ``#2`` appended at its second use in the pipeline.
        round: The round of the fixpoint, from 1; later rounds are listed where they changed something.
        rewrites: The number of rewrites; None for a pass that changes the whole model at once.
    """

    name: str
    status: Status
    instance: str = ""
    round: int = 1
    options: dict[str, Any] = {}
    seconds: float = 0.0
    nodes_before: int = 0
    nodes_after: int = 0
    rewrites: int | None = None
    ops: dict[str, int] = {}
    nodes: NodeChanges = msgspec.field(default_factory=NodeChanges)
    sites: list[SiteEntry] = []
    declined: dict[str, int] = {}
    components: list[str] = []
    notes: list[str] = []
    portability: Portability | None = None
    cached: bool = False
    check: CheckEntry | None = None
    error: str | None = None


class Source(msgspec.Struct):
    """The model that came in. Nodes count subgraphs and functions."""

    path: str | None
    sha256: str
    opset: dict[str, int]
    nodes: int
    initializer_bytes: int
    inputs: list[str] = []
    metadata: dict[str, str] = {}


class Feeds(msgspec.Struct):
    """The feeds of the run: how many sets, from which seeds, and where they come from."""

    sets: int = 0
    seeds: list[int] = []
    origin: str = ""


class Tolerance(msgspec.Struct):
    """``atol`` as a share of the slice's scale, ``rtol`` as numpy's."""

    atol: float = 1e-5
    rtol: float = 1e-4


class FloorEntry(msgspec.Struct):
    """How far rounding alone moves one output.

    Attributes:
        axis: The axis whose indices are the slices; None where all is one slice.
        max_abs: Of each slice the largest error over all samples and feeds; None where what is finite
            varies. An `OutputCheck` names the floor on the feed that decides, which may be smaller.
        rms: Of each slice the largest root of the mean square over the samples of one feed.
        samples: How many samples were taken, over all feeds.
        control: Whether the source with noise of amplitude zero equals the reference bit for bit.
        flips: Of an output that is no float, the largest share of elements that changed in a sample.
    """

    axis: int | None
    max_abs: list[float | None]
    rms: list[float | None]
    samples: int
    control: bool
    flips: float = 0.0


class AsLoaded(msgspec.Struct):
    """The verdict on the final file as a plain session runs it.

    Attributes:
        local: What the places say that the runtime rewrites when it loads the file; None where they were
            not looked at.
    """

    verdict: Verdict
    outputs: list[OutputCheck] = []
    seconds: float = 0.0
    reason: str = ""
    local: LocalSummary | None = None


class ResultEntry(msgspec.Struct):
    """The model that came out."""

    path: str | None
    sha256: str
    nodes: int
    initializer_bytes: int
    verdict: Verdict
    as_loaded: AsLoaded
    file_bytes: int | None = None
    session_config: dict[str, str] = {}
    portability: Portability = "any runtime"
    metadata_kept: int = 0
    metadata_total: int = 0
    ops: dict[str, int] = {}


class Record(msgspec.Struct):
    """Everything a run did and measured; ``notes`` are sentences about the feeds and the reference."""

    command: str
    graphopt: str
    environment: dict[str, str]
    source: Source
    pipeline: str
    schema: Literal["graphopt.record/1"] = SCHEMA
    seconds: float = 0.0
    feeds: Feeds = msgspec.field(default_factory=Feeds)
    tolerance: Tolerance = msgspec.field(default_factory=Tolerance)
    noise_floor: dict[str, FloorEntry] = {}
    reference: ReferenceEntry | None = None
    notes: list[str] = []
    passes: list[PassEntry] = []
    result: ResultEntry | None = None


def to_json(record: Record) -> bytes:
    """Encode a record; NaN and infinity become null, as JSON has neither."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2)


def from_json(text: bytes | str) -> Record:
    """Decode a record.

    Raises:
        msgspec.ValidationError: The text is JSON of another form; it names the field.
        msgspec.DecodeError: The text is not JSON.
    """
    return msgspec.json.decode(text, type=Record)
