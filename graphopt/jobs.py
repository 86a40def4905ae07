"""What a run or a diagnosis works with, from its start to its end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import onnx
import onnx_ir as ir

from graphopt.copies import kept_copies
from graphopt.exported import Exported
from graphopt.model import Model, paused_gc
from graphopt.pipeline.cache import DiskCache
from graphopt.pipeline.instrument import Instrument
from graphopt.pipeline.opaque import Toolbox
from graphopt.pipeline.spec import Pipeline
from graphopt.planning import Plan
from graphopt.record.data import Record
from graphopt.results import begin_record
from graphopt.rewrite.gate import Gate
from graphopt.rewrite.passes import OpaquePass
from graphopt.storage import sha256

if TYPE_CHECKING:
    from graphopt.diagnosis.ahead import Ahead
    from graphopt.diagnosis.diagnose import Diagnosis
    from graphopt.diagnosis.stages import Stages
    from graphopt.numerics.trial import TrialChecker

ModelSource: TypeAlias = "str | Path | Exported | onnx.ModelProto | ir.Model | Model"
RUNTIME_PASS = "ort"
"""The name of the pass that does what the runtime does when it loads a file."""


@dataclass(frozen=True)
class Job:
    """What a run or a diagnosis works with.

    Attributes:
        plan: What the caller wants.
        gate: What is left out.
        source: The source, as it was loaded; the first run changes it.
        origin: Gives the source as often as it is asked for.
        tools: What foreign code runs with.
        checker: Checks; None for a run without checks.
        record: The record so far.
        path: The source's file.
        instruments: What else watches.
    """

    plan: Plan
    gate: Gate
    source: Model
    origin: Callable[[], Model]
    tools: Toolbox
    checker: TrialChecker | None
    record: Record
    path: Path | None = None
    instruments: tuple[Instrument, ...] = ()

    def stages(
        self,
        tell: Callable[[str], None] = lambda _: None,
        *,
        plain: bool = False,
        ahead: Ahead | None = None,
    ) -> Stages:
        """The stages of a search.

        Args:
            tell: Is told what is being tried.
            plain: Whether to leave the pipeline out and look only at how the source is loaded; what the gate
                keeps from the pass that does the same is left out then.
            ahead: Makes trials on a cluster before they are asked for.
        """
        from graphopt.diagnosis.stages import Stages

        assert self.checker is not None, "a search needs the check"
        loader = self.plan.registry.get(RUNTIME_PASS)(**{"level": self.plan.options.settings.level or "all"})
        assert isinstance(loader, OpaquePass)
        return Stages(
            Pipeline() if plain else self.plan.pipeline,
            self.gate,
            self.origin,
            self.checker,
            self.tools,
            loader,
            config=self.plan.session,
            loading_off=self.gate.disabled(RUNTIME_PASS, frozenset) if plain else frozenset(),
            instruments=self.instruments,
            tell=tell,
            ahead=ahead,
        )

    def compare(
        self, other: str | Path | Model, folder: Path | None, tell: Callable[[str], None]
    ) -> Diagnosis:
        """Diagnose another model against the source.

        Args:
            other: The other model.
            folder: Where to write a reproduction; None for nowhere.
            tell: Is told what is being done.

        Raises:
            BadInput: A model cannot be loaded, the source does not run, or no feeds are found for it.
        """
        from graphopt.diagnosis.against import Comparison
        from graphopt.numerics.loading import as_file
        from graphopt.numerics.pair import PairChecker

        with (
            as_file(self.source, self.path) as source,
            as_file(Model.of(other), None if isinstance(other, Model) else Path(other)) as candidate,
            PairChecker(self.plan.options, path=source[1], cache=self.tools.cache) as checker,
        ):
            comparison = Comparison(source, candidate, checker, self.tools.worker(), tell)
            return comparison.diagnose(self.record, folder)


@contextmanager
def open_job(
    command: str,
    model: ModelSource,
    plan: Plan,
    gate: Gate | None = None,
    *,
    memory: int | None = None,
    cache: bool = True,
    instruments: Sequence[Instrument] = (),
) -> Generator[Job]:
    """Load the source and get everything ready.

    Raises:
        BadInput: The model cannot be loaded.
    """
    if isinstance(model, Exported):
        plan, model = _of_export(plan, model), model.path
    origin = _origin(model)
    path = Path(model) if isinstance(model, str | Path) else None
    with ExitStack() as stack:
        stack.enter_context(kept_copies())
        tools = Toolbox(
            cache=DiskCache() if cache else None,
            timeout=plan.options.timeout,
            memory=memory,
            setup=plan.setup,
            is_foreign=plan.registry.is_foreign,
        )
        stack.enter_context(paused_gc())
        checker: TrialChecker | None = None
        if plan.check != "off":
            # Here, as a run without checks needs none of it.
            from graphopt.numerics.trial import TrialChecker

            checker = stack.enter_context(TrialChecker(plan.options, path=path, cache=tools.cache))
        steps = [item.step for item in plan.pipeline.steps()]
        if any(isinstance(step, OpaquePass) and step.wants_feeds for step in steps):
            from graphopt.numerics.calibrating import with_feeds

            feeding = with_feeds(tools, steps, origin, checker, plan.options, path)
            tools = stack.enter_context(feeding)
        source = origin()
        record = begin_record(command, source, path, plan)
        if path is not None:
            stack.enter_context(_digest_beside(path, record))
        yield Job(
            plan,
            plan.gate(gate),
            source,
            _first(source, origin),
            tools,
            checker,
            record,
            path,
            tuple(instruments),
        )


@contextmanager
def _digest_beside(path: Path, record: Record) -> Generator[None]:
    """Note the digest of the source, which of a large file takes as long as rewriting it, at the end."""
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(sha256, path)
        try:
            yield
        finally:
            record.source.sha256 = digest.result()


def _of_export(plan: Plan, model: Exported) -> Plan:
    """The plan with the check against PyTorch, where an exported model had none yet."""
    if model.note:
        return replace(plan, notes=(*plan.notes, model.note))
    if model.reference is None or plan.check == "off" or plan.options.reference is not None:
        return plan
    return replace(plan, options=replace(plan.options, reference=model.reference))


def _origin(model: str | Path | onnx.ModelProto | ir.Model | Model) -> Callable[[], Model]:
    if isinstance(model, str | Path):
        return functools.partial(Model.load, model)
    if isinstance(model, onnx.ModelProto):
        return functools.partial(_from_copy, model)
    return functools.partial(Model.of, model)


def _from_copy(proto: onnx.ModelProto) -> Model:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return Model.from_proto(copy)


def _first(loaded: Model, origin: Callable[[], Model]) -> Callable[[], Model]:
    """An origin whose first model is there already."""
    ready = [loaded]
    return lambda: ready.pop() if ready else origin()
