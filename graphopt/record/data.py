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
Effect = Literal[
    "",
    "wrong values",
    "wrong shape",
    "wrong type",
    "invalid model",
    "does not run",
    "crash",
    "hang",
    "signature",
]
Cause = Literal["algebra", "rounding", "kernel", "unknown"]
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


def severity(verdict: Verdict) -> int:
    """How bad a verdict is; 0 is best."""
    return _SEVERITY.index(verdict)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that decides: the most severe; ``not checked`` beside others means ``undecided``."""
    if not verdicts:
        return "not checked"
    verdict = max(verdicts, key=_SEVERITY.index)
    if verdict == "not checked" and any(other != verdict for other in verdicts):
        return "undecided"
    return verdict


class NodeEntry(msgspec.Struct, frozen=True):
    """A node.

    Attributes:
        name: Its name, possibly empty.
        op: Its operator, ``domain::Op`` outside the default domain.
        graph: The path of its graph; empty for the main graph.
    """

    name: str
    op: str
    graph: str = ""


class NodeChanges(msgspec.Struct):
    """The nodes that a pass changed.

    Attributes:
        removed: Those that went.
        added: Those that came.
        modified: Those that stayed, with other inputs, attributes or types; of a tool only.
    """

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


class NodePicture(msgspec.Struct, omit_defaults=True):
    """A node as a drawing shows it.

    Attributes:
        name: Its name.
        op: Its operator, with its domain unless that is the default one.
        inputs: The names of its inputs; empty for an omitted one.
        outputs: Of each output that has a name its type and shape, as text.
        attributes: The attributes, as short texts.
        kept: Whether it is the same before and after, and drawn as what surrounds the change.
    """

    name: str
    op: str
    inputs: list[str] = []
    outputs: dict[str, str] = {}
    attributes: dict[str, str] = {}
    kept: bool = False


class Picture(msgspec.Struct, omit_defaults=True):
    """A rewrite as a drawing shows it.

    Attributes:
        before: The nodes that went, as they were.
        after: The nodes that came.
        replaced: Pairs (old value, value that took its uses).
        renamed: Pairs (name before, name after) of values that took over the name of a graph output.
        constants: Of each constant that they read its value, or its type and shape, as text.
        cut: How many nodes are left out.
        inputs: Where a whole model is drawn, of each input its type and shape before and after, as text.
    """

    before: list[NodePicture] = []
    after: list[NodePicture] = []
    replaced: list[tuple[str, str]] = []
    renamed: list[tuple[str, str]] = []
    constants: dict[str, str] = {}
    cut: int = 0
    inputs: dict[str, tuple[str, str]] = {}


class SiteEntry(msgspec.Struct):
    """One rewrite: the text of its key, its number, where it was, and what it removed and added.

    Attributes:
        key: The text of its key, as ``--skip`` takes it.
        index: Its place in the order of the run, over all passes.
        graph: The path of its graph.
        node: The name of the node that it starts from.
        op: The operator of that node.
        removed: The names of the nodes that went.
        added: The names of the nodes that came.
        local: What it computes by itself, before and after.
        picture: How it looked before and after; None where a pass has so many rewrites that only the
            first are drawn, and those that are wrong.
    """

    key: str
    index: int
    graph: str
    node: str
    op: str
    removed: list[str] = []
    added: list[str] = []
    local: LocalCheck = msgspec.field(default_factory=LocalCheck)
    picture: Picture | None = None


class RegionEntry(msgspec.Struct, omit_defaults=True):
    """A place that a tool changed: nodes that hang together through values that only one side has.

    Attributes:
        graph: The path of its graph.
        values: The values that it gives to the rest of the graph, as the model before names them.
        nodes_before: The names of its nodes before, those that were modified among them.
        ops_before: Their operators.
        nodes_after: The names of its nodes after.
        ops_after: Their operators.
        local: What it computes by itself, before and after.
        picture: How it looked before and after; None where a tool changed so much that only the first
            regions are drawn, and for constants that moved.
    """

    graph: str = ""
    values: list[str] = []
    nodes_before: list[str] = []
    ops_before: list[str] = []
    nodes_after: list[str] = []
    ops_after: list[str] = []
    local: LocalCheck = msgspec.field(default_factory=LocalCheck)
    picture: Picture | None = None


class DeclinedEntry(msgspec.Struct, frozen=True):
    """A place that a pass looked at and declined.

    Attributes:
        node: The name of the node, possibly empty; of an initializer, its own.
        op: Its operator.
        graph: The path of its graph.
        value: The name of its first output.
        reason: Why.
    """

    node: str
    op: str
    graph: str = ""
    value: str = ""
    reason: str = ""


class SliceKind(msgspec.Struct, omit_defaults=True):
    """Slices of one output whose values have a scale alike, such as the boxes among YOLO's rows.

    The reference alone says which they are, so that they are the same after every pass.

    Attributes:
        slices: Their indices, shortened: ``"0-3"``, ``"4,7,10,..."``; empty for all of the output.
        scale: Their largest magnitude in the reference, over all feeds.
        max_abs: Their largest absolute error over all feeds; None where what is finite differs.
        times: Their largest error in units of the noise floor of the slice that it is in, on that feed; of
            a floor that is zero, in units in the last place of the slice's scale. None where no floor was
            measured.
        floor: That noise floor; None where it was not measured.
    """

    slices: str = ""
    scale: float = 0.0
    max_abs: float | None = 0.0
    times: float | None = 0.0
    floor: float | None = None


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
        feed: The set of feeds with the worst error.
        verdict: The verdict of this output.
        reason: One sentence that explains the verdict where it needs one.
        local: What local checks say about it.
        loss_db: Behind a lossy pass, the ratio of signal to error over all feeds, in decibel, of the kind of
            slices where it is least; None where nothing differs, and elsewhere.
        loss_slices: These slices; empty where all are of one kind.
        kinds: The kinds of slices that it has, at most six, each with its error; empty for an output that is
            no float or could not be compared.
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
    loss_db: float | None = None
    loss_slices: str = ""
    kinds: list[SliceKind] = []


class DamageEntry(msgspec.Struct):
    """What a difference means to who uses the model: its decisions, before and after, over all feeds.

    Attributes:
        task: What the model does: ``detect``, ``segment``, ``pose``, ``obb`` or ``classify``.
        origin: How that is known: its metadata, or the form of its outputs.
        agreement: The share of decisions that stay: matched / (matched + lost + new), or of the pictures
            whose top-1 class stays; None where neither model decides anything on any feed.
        total: How many decisions the reference makes.
        matched: How many of these stay. A score within 0.01 of the confidence decides nothing.
        lost: How many go.
        new: How many come besides.
        moved_px: How far the corners of a matched box moved at most, in pixels of the model's input.
        moved_median_px: The median of that.
        score_change: The largest change of the score of a matched decision.
        iou: The least overlap of a matched pair: of boxes, for ``segment`` of masks.
        keypoints_px: How far a keypoint of a matched pair that the reference sees moved at most, in pixels
            of the model's input.
        confidence: The score from which a detection counts.
        feeds: On how many feeds.
        sentence: The same in one sentence.
    """

    task: str
    origin: str = ""
    agreement: float | None = None
    total: int = 0
    matched: int = 0
    lost: int = 0
    new: int = 0
    moved_px: float | None = None
    moved_median_px: float | None = None
    score_change: float | None = None
    iou: float | None = None
    keypoints_px: float | None = None
    confidence: float | None = None
    feeds: int = 0
    sentence: str = ""


class CheckEntry(msgspec.Struct):
    """The verdict on a model, with one entry for each output and one sentence.

    Attributes:
        verdict: The verdict.
        seconds: How long it took.
        outputs: Each output.
        reason: The sentence.
        local: What the places say that the pass changed; None where they were not looked at.
        damage: What the difference means to who uses the model; None where its task is not known.
    """

    verdict: Verdict
    seconds: float = 0.0
    outputs: list[OutputCheck] = []
    reason: str = ""
    local: LocalSummary | None = None
    damage: DamageEntry | None = None


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
        name: The pass.
        status: What came of it.
        instance: The name with ``#2`` appended at its second use in the pipeline.
        options: Its options that are not the default.
        seconds: How long it took, without the check.
        nodes_before, nodes_after: The number of nodes, those of subgraphs and functions included.
        ops: By how much the number of each operator changed.
        nodes: Which nodes it changed.
        sites: Its rewrites, in order.
        regions: The places that it changed, of a pass that changes the whole model at once.
        components: The parts of a tool that had an effect, where it says so.
        notes: Sentences of the tool, and what was given back or taken away after it.
        portability: Where what a tool saved runs.
        cached: Whether the tool's result was taken from the cache.
        check: The check after it; null where nothing changed or none was asked for.
        error: Why it failed, or what was left out of it.
        round: The round of the fixpoint, from 1; later rounds are listed where they changed something.
        rewrites: The number of rewrites; None for a pass that changes the whole model at once.
        declined: How many places it declined, by reason.
        declined_at: The first 200 of these places; all of them for a pass that ``--why-not`` asks about.
        not_run: Why the pass was not run, as it could have changed nothing or cannot take the model; empty
            where it was run, or left out because that was asked for.
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
    declined_at: list[DeclinedEntry] = []
    components: list[str] = []
    notes: list[str] = []
    portability: Portability | None = None
    cached: bool = False
    check: CheckEntry | None = None
    error: str | None = None
    regions: list[RegionEntry] = []
    not_run: str = ""


class Source(msgspec.Struct):
    """The model that came in.

    Attributes:
        path: Its file; None for a model in memory.
        sha256: The digest of its content.
        opset: The version of each operator set, the default one by the empty name.
        nodes: How many nodes it has, those of subgraphs and functions included.
        initializer_bytes: The size of its weights.
        inputs: Its inputs, with type and shape.
        metadata: Its metadata_props.
    """

    path: str | None
    sha256: str
    opset: dict[str, int]
    nodes: int
    initializer_bytes: int
    inputs: list[str] = []
    metadata: dict[str, str] = {}


class Feeds(msgspec.Struct):
    """The feeds of the run.

    Attributes:
        sets: How many there are.
        seeds: The seeds of those that were drawn.
        origin: Where they come from.
    """

    sets: int = 0
    seeds: list[int] = []
    origin: str = ""


class Tolerance(msgspec.Struct):
    """How far an element may be off.

    Attributes:
        atol: As a share of the scale of its slice.
        rtol: As a share of the element, as numpy's.
    """

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
        verdict: The verdict.
        outputs: Each output.
        seconds: How long it took.
        reason: The sentence.
        local: What the places say that the runtime rewrites when it loads the file; None where they were
            not looked at.
        load_seconds: How long the session took to make, as it was measured once; None where none was made.
        damage: What the difference means to who uses the model; None where its task is not known.
    """

    verdict: Verdict
    outputs: list[OutputCheck] = []
    seconds: float = 0.0
    reason: str = ""
    local: LocalSummary | None = None
    load_seconds: float | None = None
    damage: DamageEntry | None = None


class WitnessEntry(msgspec.Struct):
    """The verdict on a model in another runtime than ONNX Runtime.

    Attributes:
        runtime: The runtime, as ``--runtime`` names it.
        version: Its version.
        verdict: The verdict on the model there; ``does not run`` only where the source does.
        outputs: Each output, of the comparison that decides.
        reason: The sentence.
        source_verdict: The source there against the source in ONNX Runtime.
        feeds: On how many sets of feeds.
        seconds: How long it took.
    """

    runtime: str
    version: str
    verdict: Verdict
    outputs: list[OutputCheck] = []
    reason: str = ""
    source_verdict: Verdict = "not checked"
    feeds: int = 0
    seconds: float = 0.0


def deciding_witness(verdict: Verdict, witnesses: Sequence[WitnessEntry]) -> WitnessEntry | None:
    """The first witness that explains a verdict over all checks; None where none does."""
    found = [witness for witness in witnesses if worst([witness.verdict, "identical"]) == verdict]
    return found[0] if found and verdict not in ("identical", "rounding", "within tolerance") else None


class ResultEntry(msgspec.Struct):
    """The model that came out.

    Attributes:
        path: The file that was written; None for none.
        sha256: The digest of that file.
        nodes: How many nodes it has.
        initializer_bytes: The size of its weights.
        verdict: The verdict over all checks.
        as_loaded: The check of the file as a plain session loads it.
        file_bytes: The size of the file.
        session_config: The session entries that it must be loaded with.
        portability: Where it runs.
        metadata_kept, metadata_total: How many entries of the source's metadata it still has, of how many.
        ops: How often each operator occurs.
        format: What it is, or would be, saved as.
        session: The settings that it was checked with and is loaded with, as ``[session]`` of a pipeline
            file takes them; empty for a plain session.
        tied_to: What ties it to where it runs, a phrase each.
        witnesses: The verdict in each other runtime that was asked.
    """

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
    format: Literal["onnx", "ort"] = "onnx"
    session: dict[str, Any] = {}
    tied_to: list[str] = []
    witnesses: list[WitnessEntry] = []


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """One unit of a culprit: a pass with a site of it, or with a component; with neither, all of it.

    Attributes:
        pass_: The pass instance.
        site: The key of a rewrite of it.
        component: A component of it.
        at_load: Whether it acts when ONNX Runtime loads the final file, not as a pass of the pipeline.
    """

    # `pass` is a word of Python's.
    pass_: str = msgspec.field(name="pass")
    site: str | None = None
    component: str | None = None
    at_load: bool = False

    def __str__(self) -> str:
        if self.site is not None:
            return self.site
        return f"{self.pass_}/{self.component}" if self.component else self.pass_


class Place(msgspec.Struct):
    """A place that a culprit rewrote.

    Attributes:
        value: A value that it computes, as the model before names it.
        nodes_before: The names of its nodes before.
        ops_before: Their operators.
        nodes_after: The names of its nodes after.
        ops_after: Their operators.
        wrong: Whether it computes something else; None where that is not known.
        reason: How it is off, or what a rewrite changed in a node of the same operator, in one phrase.
        picture: How it looked before and after, of a run that left it out and so does not list it.
    """

    value: str
    nodes_before: list[str] = []
    ops_before: list[str] = []
    nodes_after: list[str] = []
    ops_after: list[str] = []
    wrong: bool | None = None
    reason: str = ""
    picture: Picture | None = None


class Diverging(msgspec.Struct):
    """A tensor that differs between the models before and after.

    Attributes:
        tensor: Its name in the model before.
        node: The node that computes it in the model after.
        op: The operator of that node.
        max_abs: Its largest absolute error; None where it is finite on one side only, or of another shape.
        scale: Its largest magnitude before.
    """

    tensor: str
    node: str
    op: str
    max_abs: float | None = None
    scale: float | None = None


class EvidenceEntry(msgspec.Struct):
    """Where and why a culprit is wrong.

    Attributes:
        first_diverging: The first tensor that differs by more than rounding.
        drift: How the error grows from there to the outputs, by the part of the model.
        float64: What computing both sides in float64 says: wrong ``algebra``; ``rounding``, overflow
            among it, where both agree there; ``kernel`` where the rewritten graph is right and the
            runtime computes it wrongly.
        sentence: The same in one sentence.
        alone: The largest error of an output with the culprit alone, and what it needs.
        without: The same without it.
    """

    first_diverging: Diverging | None = None
    drift: list[Diverging] = []
    float64: Cause = "unknown"
    sentence: str = ""
    alone: float | None = None
    without: float | None = None


class LayerDamage(msgspec.Struct):
    """What one layer of a lossy pass does to the outputs.

    Attributes:
        component: The layer.
        sqnr_db: Signal over error of the worst output with nothing but this layer changed, on a few feeds, in
            decibel; None where nothing differs (``harmless``), or nothing comes out that is finite.
        harmless: Whether no output differs at all.
        together: With how many layers it was measured, itself among them: those that do too little to be
            told apart.
        left_out: Whether it must be left as it was for the pass to keep to its loss.
    """

    component: str
    sqnr_db: float | None = None
    harmless: bool = False
    together: int = 1
    left_out: bool = False


class CulpritEntry(msgspec.Struct):
    """A smallest set of units that makes the model wrong: several members mean that only together do.

    Of a lossy pass that loses more than it may, the members are the fewest layers to leave as they were.

    Attributes:
        members: The units.
        effect: What comes of it.
        confirmed: Whether both sides were seen: it alone is wrong, and without it all is right.
        reason: One sentence: the verdict on the model with the culprit alone, and what it needs.
        check: That verdict with all outputs; None where it never came to that.
        needs: What must run for the members to take effect, blameless itself.
        places: What it rewrote, the wrong places first.
        where: How many places it rewrote.
        evidence: Where and why it is wrong.
        workaround: What to leave out, as ``--skip`` takes it or as a session entry, in one line.
        repro: The folder of the reproduction, if one was written.
        notes: Sentences about what could not be done.
        ranking: Of a lossy pass that loses more than it may, all layers by the damage that each does, the
            worst first; empty for any other culprit.
    """

    members: list[Member]
    effect: Effect
    confirmed: bool = False
    reason: str = ""
    check: CheckEntry | None = None
    needs: list[Member] = []
    places: list[Place] = []
    where: int = 0
    evidence: EvidenceEntry = msgspec.field(default_factory=EvidenceEntry)
    workaround: str = ""
    repro: str | None = None
    notes: list[str] = []
    ranking: list[LayerDamage] = []

    def __str__(self) -> str:
        if self.ranking and self.members[0].component:
            return f"{len(self.members)} of {len(self.ranking)} layers of {self.members[0].pass_}"
        return " with ".join(map(str, self.members))


class DiagnosisEntry(msgspec.Struct):
    """What a diagnosis comes to.

    Attributes:
        verdict: ``right`` where nothing is wrong; ``culprits`` where what is wrong has a name;
            ``unexplained`` where it is wrong and has none; ``undecided`` where it may be rounding.
        reason: One sentence.
        effect: How the model fails with everything on.
        check: The verdict on its outputs; None where it never came to that.
    """

    verdict: Literal["right", "culprits", "unexplained", "undecided"]
    reason: str = ""
    effect: Effect = ""
    check: CheckEntry | None = None


class LatencyEntry(msgspec.Struct):
    """How fast one model runs, beside the others of the same measurement.

    Attributes:
        path: Its file.
        nodes: How many nodes it has; None for a format that is not ONNX.
        bytes: The size of its file and its weights.
        session: The settings that it was loaded with, of the file beside it.
        load_seconds: How long its session took to make.
        runs: How often it was run, beside warming up.
        median, p90, best: The median, the 90th percentile and the smallest time of a run, in seconds.
        ratio: The median of its time over that of the first model in the same round; None for the first.
        ratio_low, ratio_high: The bounds of the 95 % confidence interval of that.
        error: Why it was not measured.
        notes: Sentences about it.
    """

    path: str
    nodes: int | None = None
    bytes: int = 0
    session: dict[str, Any] = {}
    load_seconds: float | None = None
    runs: int = 0
    median: float | None = None
    p90: float | None = None
    best: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    error: str = ""
    notes: list[str] = []


class Machine(msgspec.Struct):
    """The machine that measured.

    Attributes:
        host: Its name.
        worker: The name of the worker of a cluster that measured; empty for none.
        label: The resource that this worker was chosen for; empty for none.
        cpu: The model of its processor, as far as the system tells it.
        physical_cores, logical_cores: How many it has.
        memory_bytes: The size of its memory.
        system: Its operating system and architecture.
    """

    host: str
    worker: str = ""
    label: str = ""
    cpu: str = ""
    physical_cores: int = 0
    logical_cores: int = 0
    memory_bytes: int = 0
    system: str = ""


class BenchEntry(msgspec.Struct):
    """A measurement of several models, side by side.

    Attributes:
        models: Each, in the order in which they were given.
        rounds: How many rounds there were, each with one run of every model in random order.
        seconds: How long they were to take together.
        spinning: Whether waiting threads of the sessions spun.
        provider: The execution provider.
        threads: Threads within an operator; None for one a core.
        feeds: Where the feeds come from.
        machine: What measured; None in records of older versions.
    """

    models: list[LatencyEntry]
    rounds: int = 0
    seconds: float = 0.0
    spinning: bool = False
    provider: str = ""
    threads: int | None = None
    feeds: str = ""
    machine: Machine | None = None


VariantStatus = Literal["kept", "plain", "dropped", "not measured"]


class VariantEntry(msgspec.Struct):
    """One variant that a tuning looked at.

    Attributes:
        name: What it is called.
        kind: ``source`` as it came; what a ``pipeline`` made; or the model so far with other settings of its
            ``session``.
        status: ``kept`` is what the written model is made and loaded with; ``plain`` is what it would be
            without tuning.
        why: The reason, in one sentence.
        verdict: The verdict on it over all checks; settings are checked once, those that are kept together.
        nodes: How many nodes it has.
        bytes: The size of its file and weights.
        session: The settings that it was loaded with.
        load_seconds: How long its session took to make.
        runs: How often it was run.
        median: The median time of a run, in seconds.
        against: The variant that ``ratio`` is to.
        ratio: The median of its time over that of ``against`` in the same round.
        ratio_low, ratio_high: The bounds of the interval of that, at the confidence of the tuning.
    """

    name: str
    kind: Literal["source", "pipeline", "session"]
    status: VariantStatus = "not measured"
    why: str = ""
    verdict: Verdict = "not checked"
    nodes: int | None = None
    bytes: int = 0
    session: dict[str, Any] = {}
    load_seconds: float | None = None
    runs: int = 0
    median: float | None = None
    against: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


class GainEntry(msgspec.Struct):
    """What was kept against another variant, measured anew in the end.

    Attributes:
        against: The other one.
        ratio: The median of the time of what was kept over that of the other in the same round.
        ratio_low, ratio_high: The bounds of its interval, at the confidence of the tuning.
        rounds: In how many rounds.
    """

    against: str
    ratio: float
    ratio_low: float | None
    ratio_high: float | None
    rounds: int


class TuneEntry(msgspec.Struct):
    """What a tuning tried and what it came to.

    Attributes:
        kept: The pipeline whose model is written, or ``source``.
        session: The settings that were kept, as ``--session`` takes them.
        conclusion: The outcome in one sentence.
        variants: All that was looked at, in order.
        gains: What was kept against the plain choice and against the source.
        seconds: How long there was to measure.
        measured_seconds: How long was measured, beside making, checking and loading.
        comparisons: How many comparisons share the doubt.
        confidence: How sure all preferences together are.
        interval_confidence: How sure each single interval therefore is.
        cores: Of the machine, physical and logical ones that it may use.
        feeds: Where the feeds come from.
        machine: What measured; None in records of older versions.
    """

    kept: str
    conclusion: str
    variants: list[VariantEntry] = []
    session: list[str] = []
    gains: list[GainEntry] = []
    seconds: float = 0.0
    measured_seconds: float = 0.0
    comparisons: int = 0
    confidence: float = 0.95
    interval_confidence: float = 0.95
    cores: list[int] = []
    feeds: str = ""
    machine: Machine | None = None


class Record(msgspec.Struct):
    """Everything a run did and measured.

    Attributes:
        command: ``run``, ``diagnose`` or ``tune``; what a tuning kept has the record of the run that made it.
        graphopt: The version that made the record.
        environment: The versions that decide a result.
        source: The model that came in.
        pipeline: The pipeline as text, without the names of pipelines.
        schema: The version of this format.
        seconds: How long all of it took.
        feeds: What the model was run on.
        tolerance: How far an element may be off.
        noise_floor: How far rounding alone moves each output; empty where it was not needed.
        reference: The source against an outside reference, if one was given.
        notes: Sentences about the feeds and the reference.
        passes: What each pass did, in order.
        result: The model that came out; null where the run failed, and for a diagnosis.
        diagnosis: What a diagnosis comes to; None for a run.
        culprits: What breaks the model, of a diagnosis and of a run that healed.
        clean_without_culprits: Whether the model was seen to be right without them; None where nothing
            was searched for.
        trials: How many trials the search took.
        tuning: What a tuning tried; None for any other command.
    """

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
    diagnosis: DiagnosisEntry | None = None
    culprits: list[CulpritEntry] = []
    clean_without_culprits: bool | None = None
    trials: int = 0
    tuning: TuneEntry | None = None


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
