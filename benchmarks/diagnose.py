"""Whether a diagnosis names the right culprits: faults are planted at random, and the names compared.

The models are those of the tests and the files that are given. What is planted is one unit that is wrong
(``rewrite``, ``component``, ``surgeon``), two of which each alone is (``-two``), two that are wrong only
together (``-pair``), and one that comes to be only by another, blameless one (``-needs``); ``mixed`` is over
several passes. ``real`` are faults of real optimizers on graphs of their own, ``grafted`` the same inside a
model. A planting that nothing shows is drawn again, and counted.

``wrong`` counts culprits that are confirmed and name what is not to blame: it must be 0. ``within`` is the
share with at most ``2 c log2(N) + 6`` trials for c culprits among N units. Prints a table, and JSON with
``--json``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import onnx

import graphopt
from graphopt.api import diagnose
from graphopt.pipeline.opaque import Toolbox, components_of
from graphopt.record.data import Member
from graphopt.rewrite.passes import Pass
from graphopt.rewrite.workspace import Workspace
from graphopt_passes.ort import Ort
from graphopt_passes.pipelines import PORTABLE

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import planted_units
from models import MODELS, small_net
from planted_units import COUNT, Copies, Surgeon, Tool, component, output_of
from real_faults import FAULTS, RealFault, graft

Source: TypeAlias = "str | onnx.ModelProto"
Steps: TypeAlias = "list[Pass | str]"
Truth: TypeAlias = "frozenset[frozenset[str]]"
_ATTEMPTS = 40
_HANG = 4.0
_SLOW = ("hangs",)
_TOOLS = {
    "onnxsim": "onnxsim{optimizer=true}",
    "ort": "ort{level=all}",
    "ort-transformers": "ort-transformers{model-type=bert}",
}
"""How the optimizers of real faults are run where that is not by their name."""
_SEEN_AT_ONCE = ("bounded", "negated", "reshaped", "scaled")
"""Faults of a component of which the step is wrong by itself, so that what it needs is blameless for sure."""

_first, _, _rest = PORTABLE.partition(",onnxsim,")
FRAMES: dict[str, tuple[Steps, Steps]] = {
    "short": (["eliminate-identity"], ["eliminate-dead"]),
    "portable": ([_first], ["onnxsim", _rest]),
    "again": (["eliminate-identity", Copies(ops=("Add", "Conv", "Gather", "MatMul"))], ["eliminate-dead"]),
}


@dataclass(frozen=True)
class Planting:
    """A model with a pipeline that breaks it, and who is to blame.

    Attributes:
        steps: The pipeline; None for what a plain session does.
        alone: Pipelines with a part of the faults, each of which must show as well.
        frame: What else is in the pipeline.
        units: How many units the pipeline has; 0 where only the diagnosis tells.
    """

    kind: str
    model: str
    source: Source
    steps: Steps | None
    truth: Truth
    alone: tuple[Steps, ...] = ()
    frame: str = ""
    units: int = 0
    timeout: float | None = None

    def __str__(self) -> str:
        steps = [step for step in self.steps or () if not isinstance(step, str)]
        if not self.frame:
            return f"{self.kind}: {self.model}"
        return f"{self.kind}: {self.model}, {self.frame}: {','.join(map(str, steps))}"


@dataclass
class Outcome:
    """What the diagnosis said of a planting."""

    planting: Planting
    found: Truth = frozenset()
    wrong: int = 0
    clean: bool = False
    trials: int = 0
    units: int = 0
    seconds: float = 0.0
    verdict: str = ""
    effects: list[str] = field(default_factory=list[str])
    error: str = ""

    @property
    def exact(self) -> bool:
        return self.found == self.planting.truth

    @property
    def missing(self) -> int:
        return len(self.planting.truth - self.found)

    @property
    def within(self) -> bool:
        return self.trials <= 2 * len(self.planting.truth) * math.log2(max(self.units, 2)) + 6


@dataclass
class Ground:
    """What can be planted into one model within one frame.

    Attributes:
        faults: The roots by fault, in the order of the graph.
        roots: All units of `Copies`, in that order.
        values: Where `Tool` and `Surgeon` act.
        instance: What `Copies` is called there.
        units: How many units the frame has with `Copies`.
    """

    model: str
    source: Source
    frame: str
    before: Steps
    after: Steps
    faults: dict[str, list[str]]
    roots: list[str]
    values: list[str]
    instance: str
    units: int

    def steps(self, *planted: Pass) -> Steps:
        return [*self.before, *planted, *self.after]

    def planting(
        self, kind: str, truth: Sequence[Sequence[str]], *planted: Pass, alone: Sequence[Sequence[Pass]] = ()
    ) -> Planting:
        more = sum(COUNT if isinstance(step, Tool) else 1 for step in planted)
        return Planting(
            kind,
            self.model,
            self.source,
            self.steps(*planted),
            frozenset(frozenset(map(base_names, names)) for names in truth),
            tuple(self.steps(*part) for part in alone),
            self.frame,
            self.units + more,
            _HANG if any(fault in str(planted) for fault in _SLOW) else None,
        )

    def site(self, root: str) -> str:
        return f"{self.instance}@{root}"


def base_names(text: str) -> str:
    """The name of a unit, with that of its pass in place of the instance."""
    return re.sub(r"^([^#@/]+)#\d+", r"\1", text)


def lay_ground(model: str, source: Source, frame: str) -> Ground | None:
    """Look at what can be planted; None where the model is not right without."""
    before, after = FRAMES[frame]
    try:
        clean = graphopt.run(source, [*before, Copies(), *after])
    except graphopt.CheckFailed as error:
        print(f"  {model} is left out in the frame '{frame}': {error}", flush=True)
        return None
    instance = max(entry.instance for entry in clean.record.passes if entry.name == Copies.name)
    keys = {site.key for entry in clean.record.passes for site in entry.sites}
    start = graphopt.run(source, before, check="off").model
    # What a fault asks of a graph is answered by the engine's view of it.
    Workspace(start.ir)
    names = (*planted_units.FAULTS, "scaled", "raises", "unknown-operator")
    faults: dict[str, list[str]] = {}
    roots: list[str] = []
    for node in start.ir.graph:
        root = node.outputs[0].name or ""
        if f"{instance}@{root}" not in keys:
            continue
        roots.append(root)
        for fault in names:
            if planted_units.possible(fault, node):
                faults.setdefault(fault, []).append(root)
    units = sum(len(entry.sites) or len(entry.components) for entry in clean.record.passes)
    values = planted_units.float_values(start.proto())
    return Ground(model, source, frame, before, after, faults, roots, values, instance, units)


def _fault(rng: Random, ground: Ground) -> tuple[str, str]:
    """A fault, and the root of a site for it."""
    fault = rng.choice(sorted(ground.faults))
    return fault, rng.choice(ground.faults[fault])


def _tool_fault(rng: Random, *, fast: bool = True) -> str:
    return rng.choice([fault for fault in planted_units.TOOL_FAULTS if not (fast and fault in _SLOW)])


def _unit(name: str) -> str:
    return f"{Tool.name}/{name}"


def _two_components(rng: Random, *, made: bool = False) -> tuple[str, str]:
    """Two components in order; with ``made`` the first one is one that adds a node."""
    first, second = sorted(rng.sample(range(COUNT), 2))
    return component(first + (made and first % 3 == 0)), component(second)


def rewrite(rng: Random, ground: Ground) -> Planting:
    fault, root = _fault(rng, ground)
    return ground.planting("rewrite", [[ground.site(root)]], Copies(wrong=(f"{fault}@{root}",)))


def rewrite_two(rng: Random, ground: Ground) -> Planting | None:
    (one, a), (other, b) = _fault(rng, ground), _fault(rng, ground)
    if a == b:
        return None
    wrong = (f"{one}@{a}", f"{other}@{b}")
    alone = [[Copies(wrong=(text,))] for text in wrong]
    return ground.planting(
        "rewrite-two", [[ground.site(a)], [ground.site(b)]], Copies(wrong=wrong), alone=alone
    )


def rewrite_pair(rng: Random, ground: Ground) -> Planting | None:
    fault, root = _fault(rng, ground)
    earlier = ground.roots[: ground.roots.index(root)]
    if not earlier:
        return None
    mark = rng.choice(earlier)
    step = Copies(together=(f"{fault}@{root}&{mark}",))
    return ground.planting("rewrite-pair", [[ground.site(mark), ground.site(root)]], step)


def rewrite_needs(rng: Random, ground: Ground) -> Planting | None:
    fault, root = _fault(rng, ground)
    # An output keeps its name, and a long name is shortened: then the copy has another one.
    if root not in ground.values or len(root) > 120:
        return None
    truth = [[ground.site(f"{root}/{ground.instance}.new")]]
    return ground.planting("rewrite-needs", truth, Copies(twice=(f"{fault}@{root}",)))


def one_component(rng: Random, ground: Ground) -> Planting:
    name, fault = component(rng.randrange(COUNT)), _tool_fault(rng, fast=False)
    step = Tool(wrong=(f"{fault}@{name}",), talks=rng.random() < 0.5)
    return ground.planting("component", [[_unit(name)]], step)


def component_two(rng: Random, ground: Ground) -> Planting:
    names = _two_components(rng)
    wrong = tuple(f"{_tool_fault(rng)}@{name}" for name in names)
    alone = [[Tool(wrong=(text,))] for text in wrong]
    step = Tool(wrong=wrong, talks=rng.random() < 0.5)
    return ground.planting("component-two", [[_unit(name)] for name in names], step, alone=alone)


def component_pair(rng: Random, ground: Ground) -> Planting:
    mark, name = _two_components(rng)
    step = Tool(together=(f"{_tool_fault(rng)}@{name}&{mark}",), talks=rng.random() < 0.5)
    return ground.planting("component-pair", [[_unit(mark), _unit(name)]], step)


def component_needs(rng: Random, ground: Ground) -> Planting:
    need, name = _two_components(rng)
    step = Tool(needs=(f"{rng.choice(_SEEN_AT_ONCE)}@{name}&{need}",), talks=rng.random() < 0.5)
    return ground.planting("component-needs", [[_unit(name)]], step)


def surgeon(rng: Random, ground: Ground) -> Planting:
    step = Surgeon(rng.choice(ground.values), rng.choice(("scaled", "negated", "raises")))
    around = rng.choice(([Copies(), step], [step, Copies()], [Tool(), step], [step, Tool()]))
    return ground.planting("surgeon", [[Surgeon.name]], *around)


def mixed_two(rng: Random, ground: Ground) -> Planting:
    fault, root = _fault(rng, ground)
    name, value = component(rng.randrange(COUNT)), rng.choice(ground.values)
    # Each with what is there in its place when only the other one is wrong.
    units: dict[str, tuple[Pass, Pass]] = {
        ground.site(root): (Copies(wrong=(f"{fault}@{root}",)), Copies()),
        _unit(name): (Tool(wrong=(f"{_tool_fault(rng)}@{name}",)), Tool()),
        Surgeon.name: (Surgeon(value, rng.choice(("scaled", "negated"))), Surgeon(value)),
    }
    one, other = rng.sample(sorted(units), 2)
    (first, no_first), (second, no_second) = units[one], units[other]
    alone = [[first, no_second], [no_first, second]]
    return ground.planting("mixed-two", [[one], [other]], first, second, alone=alone)


def mixed_pair(rng: Random, ground: Ground) -> Planting:
    fault, root = _fault(rng, ground)
    if rng.random() < 0.5:
        step = Copies(together=(f"{fault}@{root}&surgeon",))
        truth = [[Surgeon.name, ground.site(root)]]
        return ground.planting("mixed-pair", truth, Surgeon(rng.choice(ground.values)), step)
    mark, _ = _two_components(rng, made=True)
    step = Copies(together=(f"{fault}@{root}&{mark}",))
    return ground.planting("mixed-pair", [[_unit(mark), ground.site(root)]], Tool(), step)


def mixed_needs(rng: Random, ground: Ground) -> Planting:
    if rng.random() < 0.5:
        value = rng.choice(ground.values)
        root, first = f"{value}/surgeon", Surgeon(value)
    else:
        need, _ = _two_components(rng, made=True)
        value = ground.values[int(need[1:]) * len(ground.values) // COUNT]
        root, first = output_of(need, value), Tool()
    fault = rng.choice(("scaled", "raises", "unknown-operator"))
    return ground.planting("mixed-needs", [[ground.site(root)]], first, Copies(wrong=(f"{fault}@{root}",)))


DRAWN: dict[str, Callable[[Random, Ground], Planting | None]] = {
    "rewrite": rewrite,
    "rewrite-two": rewrite_two,
    "rewrite-pair": rewrite_pair,
    "rewrite-needs": rewrite_needs,
    "component": one_component,
    "component-two": component_two,
    "component-pair": component_pair,
    "component-needs": component_needs,
    "surgeon": surgeon,
    "mixed-two": mixed_two,
    "mixed-pair": mixed_pair,
    "mixed-needs": mixed_needs,
}
KINDS = (*DRAWN, "real", "grafted")


class Field:
    """The models, each looked at when it is first drawn.

    Attributes:
        sources: All of them.
        fixed: Those that a real fault can be grafted into, with sizes that are fixed.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.sources: dict[str, Source] = {name: build() for name, build in MODELS.items()}
        self.sources.update({path.stem: str(path) for path in files})
        self.fixed: dict[str, Source] = {path.stem: str(path) for path in files}
        for name in ("detector", "resnet", "segmenter"):
            model = self.sources[name]
            if name != "segmenter":
                model = graphopt.run(model, "fix-dims{batch=1}", check="off").model.proto()
            self.fixed[name] = model
        self._grounds: dict[tuple[str, str], Ground | None] = {}
        self._right: dict[tuple[str, str], bool] = {}

    def draw(self, rng: Random) -> Ground:
        """A model and a frame."""
        while True:
            chosen = rng.choice(sorted(self.sources)), rng.choice(sorted(FRAMES))
            if chosen not in self._grounds:
                model, frame = chosen
                self._grounds[chosen] = lay_ground(model, self.sources[model], frame)
            ground = self._grounds[chosen]
            if ground is not None and ground.faults and ground.values:
                return ground

    def is_right(self, name: str, source: Source, steps: Steps) -> bool:
        """Whether a pipeline leaves a model right."""
        key = name, ",".join(map(str, steps))
        if key not in self._right:
            self._right[key] = not shows(Planting("", name, source, steps, frozenset()), steps)
        return self._right[key]


def shows(planting: Planting, steps: Steps) -> bool:
    """Whether the check finds a pipeline wrong."""
    try:
        graphopt.run(planting.source, steps, on_failure="stop", timeout=planting.timeout)
    except graphopt.CheckFailed:
        return True
    return False


def draw(kind: str, rng: Random, ground: Callable[[Random], Ground]) -> tuple[Planting | None, int]:
    """A planting that shows, and how many did not."""
    for redrawn in range(_ATTEMPTS):
        planting = DRAWN[kind](rng, ground(rng))
        if planting is None or planting.steps is None:
            continue
        if all(shows(planting, steps) for steps in (planting.steps, *planting.alone)):
            return planting, redrawn
    return None, _ATTEMPTS


def installed(fault: RealFault) -> bool:
    """Whether the optimizer is there in a version that has the fault."""
    package = "onnxruntime" if fault.tool.startswith("ort") else fault.tool
    try:
        return importlib.metadata.version(package) in fault.versions
    except importlib.metadata.PackageNotFoundError:
        return False


def real(kind: str, fault: RealFault, model: str, source: Source) -> Planting:
    """A fault of a real optimizer, planted by nobody."""
    truth = frozenset(frozenset(f"{fault.tool}/{name}" for name in names) for names in fault.culprits)
    title = f"{model} ({fault.tool}: {fault.name})"
    if fault.tool == "ort":
        # The record of a plain session does not list all parts that took effect.
        return Planting(kind, title, source, None, truth, units=len(components_of(Ort(), Toolbox())))
    return Planting(kind, title, source, [_TOOLS.get(fault.tool, fault.tool)], truth)


def grafted(fault: RealFault, rng: Random, field: Field) -> tuple[Planting | None, int]:
    """A real fault inside a model that the optimizer leaves right without it, and how many did not show."""
    pipeline: Steps = [_TOOLS.get(fault.tool, fault.tool)]
    names = sorted(field.fixed)
    rng.shuffle(names)
    redrawn = 0
    for name in (*names, "net"):
        source = field.fixed.get(name) or small_net(min(18, fault.build().opset_import[0].version))
        try:
            model = graft(onnx.load(source) if isinstance(source, str) else source, fault)
        except Exception:
            # ONNX does not convert every model to every operator set, and not every model has a place.
            continue
        if field.is_right(name, source, pipeline):
            planting = real("grafted", fault, name, model)
            if shows(planting, pipeline):
                return planting, redrawn
            redrawn += 1
    return None, redrawn


def look(planting: Planting) -> Outcome:
    """Diagnose a planting."""
    outcome = Outcome(planting)
    begin = time.perf_counter()
    try:
        diagnosis = diagnose(planting.source, planting.steps, timeout=planting.timeout)
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}"
        outcome.seconds = time.perf_counter() - begin
        return outcome
    outcome.seconds = time.perf_counter() - begin
    blamed = frozenset[str]().union(*planting.truth)
    named = [(_names(culprit.members), culprit.confirmed) for culprit in diagnosis.culprits]
    outcome.found = frozenset(names for names, _ in named)
    outcome.wrong = sum(1 for names, confirmed in named if confirmed and not names <= blamed)
    outcome.clean = diagnosis.record.clean_without_culprits is True
    outcome.trials = diagnosis.record.trials
    outcome.verdict = diagnosis.verdict
    outcome.effects = [culprit.effect for culprit in diagnosis.culprits]
    seen = sum(len(entry.sites) or len(entry.components) for entry in diagnosis.record.passes)
    outcome.units = planting.units or seen or len(diagnosis.record.culprits)
    return outcome


def _names(members: Sequence[Member]) -> frozenset[str]:
    return frozenset(base_names(str(member)) for member in members)


def everything(options: argparse.Namespace, redrawn: dict[str, int]) -> Iterator[Planting]:
    """All plantings that are asked for."""
    rng = Random(options.seed)
    ground = Field(options.models)
    kinds = [kind for kind in options.kinds if kind in DRAWN]
    for number in range(options.count if kinds else 0):
        kind = kinds[number % len(kinds)]
        planting, again = draw(kind, rng, ground.draw)
        redrawn[kind] = redrawn.get(kind, 0) + again
        if planting is not None:
            yield planting
    for fault in filter(installed, FAULTS):
        if "real" in options.kinds:
            yield real("real", fault, "its own graph", fault.build())
        if "grafted" in options.kinds and fault.inside:
            planting, again = grafted(fault, rng, ground)
            redrawn["grafted"] = redrawn.get("grafted", 0) + again
            if planting is not None:
                yield planting


def summary(kind: str, outcomes: Sequence[Outcome], redrawn: int) -> dict[str, Any]:
    """The figures of one kind."""
    return {
        "kind": kind,
        "drawn": len(outcomes),
        "redrawn": redrawn,
        "exact": sum(outcome.exact for outcome in outcomes),
        "missing": sum(outcome.missing for outcome in outcomes),
        "wrong": sum(outcome.wrong for outcome in outcomes),
        "clean": sum(outcome.clean for outcome in outcomes),
        "trials": statistics.median(outcome.trials for outcome in outcomes),
        "within": sum(outcome.within for outcome in outcomes) / len(outcomes),
        "seconds": statistics.median(outcome.seconds for outcome in outcomes),
    }


def row(outcome: Outcome) -> dict[str, Any]:
    """One planting as JSON."""
    planting = outcome.planting
    return {
        "kind": planting.kind,
        "model": planting.model,
        "pipeline": None if planting.steps is None else ",".join(map(str, planting.steps)),
        "truth": sorted(map(sorted, planting.truth)),
        "found": sorted(map(sorted, outcome.found)),
        "exact": outcome.exact,
        "wrong": outcome.wrong,
        "clean": outcome.clean,
        "verdict": outcome.verdict,
        "effects": outcome.effects,
        "trials": outcome.trials,
        "units": outcome.units,
        "within": outcome.within,
        "seconds": outcome.seconds,
        "error": outcome.error,
    }


def main() -> None:
    """Plant, diagnose and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=120, help="plantings beside the real faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--models", type=Path, nargs="+", default=[], help="more models to plant into")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    redrawn: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        # Nothing is known from another time, so that seconds can be compared.
        os.environ["GRAPHOPT_CACHE"] = folder
        for planting in everything(options, redrawn):
            outcome = look(planting)
            outcomes.append(outcome)
            print(
                f"{len(outcomes):>4} {'right' if outcome.exact else 'NOT RIGHT':<9}"
                f" {outcome.trials:>4} trials {outcome.seconds:6.1f} s  {planting}",
                flush=True,
            )
            if not outcome.exact or outcome.wrong or not outcome.clean:
                print(f"     planted {_told(planting.truth)}; found {_told(outcome.found)} {outcome.error}")
    rows = [
        summary(kind, [o for o in outcomes if o.planting.kind == kind], redrawn.get(kind, 0))
        for kind in KINDS
        if any(outcome.planting.kind == kind for outcome in outcomes)
    ]
    if not rows:
        return
    rows.append(summary("all", outcomes, sum(redrawn.values())))
    counts = ("drawn", "redrawn", "exact", "missing", "wrong", "clean")
    print(f"\n{'kind':<16}{''.join(f'{name:>9}' for name in (*counts, 'trials', 'within', 'seconds'))}")
    for figures in rows:
        numbers = "".join(f"{figures[name]:>9}" for name in counts)
        rest = f"{figures['trials']:>9g}{figures['within']:>9.0%}{figures['seconds']:>9.2f}"
        print(f"{figures['kind']:<16}{numbers}{rest}")
    total = rows[-1]
    print(
        f"\n{total['exact']} of {total['drawn']} plantings named exactly;"
        f" {total['missing']} culprits missing, {total['wrong']} confirmed ones wrong."
    )
    if options.json:
        found = {"kinds": rows, "plantings": [row(outcome) for outcome in outcomes]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _told(sets: Truth) -> str:
    return ", ".join(" with ".join(sorted(names)) for names in sorted(sets, key=sorted)) or "nothing"


if __name__ == "__main__":
    main()
