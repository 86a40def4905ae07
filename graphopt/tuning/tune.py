"""``graphopt.tune``: measures variants of a model, and keeps the fastest that passes the check."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.bench.stand import Stand
from graphopt.errors import BadInput
from graphopt.jobs import RUNTIME_PASS, ModelSource
from graphopt.numerics.options import CheckOptions, LiveReference
from graphopt.pipeline.names import did_you_mean
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.settings import SessionSettings, SessionSource
from graphopt.pipeline.worker import Worker
from graphopt.planning import Policy, settings_of
from graphopt.record.data import Record, TuneEntry
from graphopt.results import CheckFailed, Result
from graphopt.rewrite.passes import OpaquePass
from graphopt.storage import SavedFile
from graphopt.tuning.entering import Book
from graphopt.tuning.making import SOURCE, Made, Maker
from graphopt.tuning.race import Budget
from graphopt.tuning.search import Search
from graphopt.tuning.variants import StandTrack, Variant, dimensions_of

if TYPE_CHECKING:
    from typing import Literal

    import onnxruntime as ort

USUAL = ("default", "portable", "exact", "this-cpu")
"""The pipelines that are tried where nobody says which."""
CONFIDENCE = 0.95
# Of the time: for pipelines, and for what is kept against the plain choice and the source in the end.
_FOR_PIPELINES, _FOR_CONFIRMING = 0.45, 0.2


@dataclass
class Tuned:
    """The fastest variant that passes the check.

    Attributes:
        result: What its pipeline made, checked as it is loaded with the settings that were kept.
        entry: All variants, and what came of each.
    """

    result: Result
    entry: TuneEntry

    @property
    def record(self) -> Record:
        """The record of the run that made it, with what was tried."""
        return self.result.record

    @property
    def settings(self) -> SessionSettings:
        """What it must be loaded with to be as fast, and right."""
        return self.result.settings

    def save(self, path: str | Path) -> SavedFile:
        """Write the model and, where a plain session will not do, its session file; see `Result.save`.

        Raises:
            BadInput: It cannot be written there, or in this format.
        """
        return self.result.save(path)

    def session(self, **options: Any) -> ort.InferenceSession:
        """A session of it with the settings that were kept; see `Result.session`."""
        return self.result.session(**options)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from graphopt.report.notebook import html_of

        return html_of(self.record)


def tune(
    model: ModelSource,
    pipelines: Sequence[str] = USUAL,
    *,
    seconds: float = 60.0,
    without: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    skip: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    check: Literal["pass", "rewrite"] | None = None,
    on_failure: Policy | None = None,
    inputs: Sequence[str | Path] = (),
    dims: Mapping[str, int] | None = None,
    seed: int | None = None,
    samples: int | None = None,
    special: bool = False,
    reference: str | Path | LiveReference | None = None,
    pixels: str | None = None,
    runtimes: Sequence[str] = (),
    atol: float | Mapping[str, float] | None = None,
    rtol: float | Mapping[str, float] | None = None,
    provider: str | None = None,
    threads: int | None = None,
    session: SessionSource | None = None,
    timeout: float | None = None,
    memory: int | None = None,
    cache: bool = True,
    cluster: str | None = None,
    on: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Measure variants of a model side by side, and keep the fastest that passes the check.

    First what pipelines make of it, then settings of the session, one after the other, on the fastest. A
    variant is preferred only where it is faster beyond the noise of the same measurement.

    Args:
        model: See `run`, as for all that is not described here.
        pipelines: What to try: names, texts and files. Without a clear winner the first one is kept.
        seconds: How long to measure, beside making, checking and loading the variants.
        without: Parts of ONNX Runtime's optimizer to try to load the model without.
        plugins: More passes.
        skip: What to leave out of the pipelines that have it.
        options: Options of passes, for the pipelines that have them.
        check: ``pass`` or ``rewrite``.
        on_failure: What becomes of a pipeline that fails: ``stop`` drops it.
        inputs: Feeds from files, for the check and to measure on.
        dims: Sizes of symbolic dims in the generated feeds.
        seed: What the generated feeds and the orders within rounds start from.
        samples: How many feeds to draw.
        special: Whether to draw one more, with NaN and infinities.
        reference: What the source itself is checked against first.
        pixels: How the pixels of images become numbers.
        runtimes: Other runtimes to check in.
        atol: Absolute tolerance.
        rtol: Relative tolerance.
        provider: The execution provider.
        threads: Threads of a session; they are not varied then.
        session: Settings of the session; what it says is not varied.
        timeout: Seconds that one pass may take.
        memory: Bytes that a worker process may use.
        cache: Whether results of tools are kept on disk.
        cluster: The address of a Dask scheduler, one of whose workers does all of it; None for this machine.
        on: The resource that this worker must carry; None for any.
        tell: Is told what is being done, in a few words.

    Raises:
        BadInput: The model, a pipeline or an option cannot be used; or there is no such cluster or worker.
        MissingExtra: A cluster is asked for, and Dask is not installed.
        CheckFailed: No variant passes the check; carries what the first pipeline made, with the record.
    """
    begin = time.perf_counter()
    if not seconds > 0:
        raise BadInput(f"Cannot measure for {seconds:g} s: give seconds above 0.")
    names = list(dict.fromkeys(pipelines))
    if not names or SOURCE in names:
        raise BadInput("Give at least one pipeline to try; the source is measured anyway.")
    said: dict[str, Any] = {
        "inputs": inputs, "dims": dims, "seed": seed, "samples": samples, "special": special,
        "reference": reference, "pixels": pixels, "runtimes": runtimes, "atol": atol, "rtol": rtol,
        "provider": provider, "threads": threads, "timeout": timeout,
    }  # fmt: skip
    others = {"plugins": plugins, "check": check, "on_failure": on_failure, "memory": memory, "cache": cache}
    if cluster is not None or on is not None:
        from graphopt.tuning.elsewhere import tune_there

        more = {"seconds": seconds, "without": without, "skip": skip, "options": options, "session": session}
        return tune_there(model, names, {**said, **others, **more}, cluster=cluster, on=on, tell=tell)
    _demand_parts(without, plugins)
    maker = Maker(model, names, skip, options or {}, session=session, **others, **said)
    made: dict[str, Made] = {}
    for name in (SOURCE, *names):
        tell(f"making and checking {name}")
        made[name] = maker.make(name)
    fields = {name: value for name, value in settings_of(**said).items() if value is not None}
    checking = CheckOptions(**fields, session=SessionSettings.of(session or {}))
    book = Book(made, seconds, CONFIDENCE, checking.origin)
    with tempfile.TemporaryDirectory(prefix="graphopt-tune-") as folder, Worker() as worker:
        variants = _written(made, Path(folder), checking.settings, book)
        passing = [name for name in (*names, SOURCE) if name in variants and made[name].passes]
        if not passing:
            raise _nothing_passes(made, names, book.entry, time.perf_counter() - begin)
        # Each variant says itself where it runs, and with how many threads.
        stand = Stand(worker, replace(checking, provider=None, threads=None), spinning=True)
        tuning = _Tuning(maker, made, variants, passing, book, StandTrack(stand), tell)
        result = tuning.find(seconds, without)
    record = result.record
    record.command, record.tuning, record.seconds = "tune", book.entry, time.perf_counter() - begin
    record.notes.append(book.entry.conclusion)
    return Tuned(result, book.entry)


def _demand_parts(names: Sequence[str], plugins: Sequence[str | Path]) -> None:
    """Make sure that the runtime's optimizer has these parts: it would take any name without a word.

    Raises:
        BadInput: It has not.
    """
    if not names:
        return
    loader = Registry.load(tuple(plugins)).get(RUNTIME_PASS)()
    assert isinstance(loader, OpaquePass)
    known = loader.components()
    for name in names:
        if name not in known:
            near = did_you_mean(name, sorted(known))
            raise BadInput(
                f"ONNX Runtime's optimizer has no part '{name}': {near}'graphopt passes {RUNTIME_PASS}' lists"
                " them."
            )


def _written(made: Mapping[str, Made], folder: Path, base: SessionSettings, book: Book) -> dict[str, Variant]:
    """The models that are worth measuring, as files; of two that are equal only the first.

    Args:
        made: What each pipeline made.
        folder: Where to write.
        base: What the source is loaded with where it fails the check.
        book: Is told which are equal.
    """
    found: dict[str, Variant] = {}
    known: dict[tuple[str, SessionSettings], str] = {}
    for name in sorted(made, key=lambda name: name == SOURCE):
        result = made[name].result
        if result is None or not (made[name].passes or name == SOURCE):
            continue
        settings = result.made_with if made[name].passes else base
        key = (result.model.digest(), settings)
        if key in known and name != SOURCE:
            book.equal(name, known[key])
            continue
        known[key] = name
        place = folder / str(len(found))
        place.mkdir()
        result.model.write(place / "model.onnx")
        size = sum(file.stat().st_size for file in place.iterdir())
        found[name] = Variant(name, name, place / "model.onnx", settings, result.model.node_count(), size)
    return found


def _nothing_passes(
    made: Mapping[str, Made], names: Sequence[str], entry: TuneEntry, seconds: float
) -> CheckFailed:
    """The error of a tuning without any variant that may ship."""
    first = next((made[name] for name in (*names, SOURCE) if made[name].result is not None), None)
    assert first is not None, "the source has a result in any case"
    assert first.result is not None
    entry.conclusion = "No variant passes the check."
    record = first.result.record
    record.command, record.tuning, record.seconds = "tune", entry, seconds
    return CheckFailed(f"No variant passes the check; {first.name}: {first.why}", first.result)


class _Tuning:
    """One tuning, from the variants that passed the check on.

    Args:
        maker: Makes and checks what is kept again, with its settings.
        made: What each pipeline made.
        variants: What can be measured, by the name of its pipeline.
        passing: The pipelines that pass the check; the first is kept unless another one is clearly faster.
        book: Takes down what happens.
        track: Runs variants.
        tell: Is told what is being done.
    """

    def __init__(
        self,
        maker: Maker,
        made: Mapping[str, Made],
        variants: Mapping[str, Variant],
        passing: Sequence[str],
        book: Book,
        track: StandTrack,
        tell: Callable[[str], None],
    ) -> None:
        self._maker = maker
        self._made = made
        self._source = variants[SOURCE]
        self._plain = variants[passing[0]]
        # Where the source itself fails the check, it is what the others are compared with.
        self._barred = [] if self._source.name in passing else [self._source]
        self._challengers = [*(variants[name] for name in passing[1:]), *self._barred]
        self._kept = [self._source] if self._source != self._plain else []
        self._book = book
        self._track = track
        self._tell = tell

    def find(self, seconds: float, without: Sequence[str]) -> Result:
        """The result of the fastest variant.

        Args:
            seconds: How long to measure.
            without: Parts of the optimizer to try without.
        """
        everyone = [self._plain, *self._challengers]
        dimensions = {one: dimensions_of(one.settings, without) for one in everyone}
        most = max(sum(map(len, found.values())) for found in dimensions.values())
        # What is kept is compared once more in the end.
        comparisons = len(self._challengers) + most + 1
        budget = Budget.of(seconds, comparisons, CONFIDENCE)
        search = Search(self._track, budget, Variant.doubled, self._say)
        share = seconds * (_FOR_PIPELINES if most else 1 - _FOR_CONFIRMING)
        first = search.step(
            "pipelines", self._plain, self._challengers, share,
            kept=self._kept, barred=self._barred, reserve=seconds * _FOR_CONFIRMING, must=True,
        )  # fmt: skip
        self._book.pipelines(first, self._source, self._track.loads)
        reserve = seconds * _FOR_CONFIRMING
        steps = search.climb(first.winner, dimensions[first.winner], Variant.varied, reserve)
        self._book.settings(steps, self._track.loads)
        gained = [step.winner for step in steps if step.winner != step.incumbent]
        final, gained, result = self._checked(first.winner, gained)
        if final != self._source or final != self._plain:
            final, gained, result = self._confirmed(search, final, gained, result)
        self._book.end(final, gained, self._plain, budget, comparisons, self._track.spent())
        return result

    def _checked(self, base: Variant, gained: list[Variant]) -> tuple[Variant, list[Variant], Result]:
        """What is kept, checked as it is loaded; where that fails, the last setting goes first."""
        while gained:
            self._tell(f"checking {base} with {', '.join(map(str, gained))}")
            found = self._maker.make(base.pipeline, gained[-1].settings)
            if found.passes:
                assert found.result is not None
                return gained[-1], gained, found.result
            self._book.failed(gained[-1], found)
            gained = gained[:-1]
        return base, [], self._result(base)

    def _confirmed(
        self, search: Search[Variant], final: Variant, gained: list[Variant], result: Result
    ) -> tuple[Variant, list[Variant], Result]:
        """Measure what is kept anew, against the plain choice: who came out first of many had luck, too."""
        others = list(self._kept)
        if final not in (self._plain, *others):
            others.append(final)
        barred = [one for one in others if one != final]
        step = search.step(
            "what is kept", self._plain, others, search.left, kept=others, barred=barred, must=True
        )
        if step.winner != final:
            self._book.unconfirmed(step, final, gained)
            final, gained, result = self._plain, [], self._result(self._plain)
        self._book.confirmed(step, final, self._source)
        return final, gained, result

    def _result(self, variant: Variant) -> Result:
        result = self._made[variant.pipeline].result
        assert result is not None
        return result

    def _say(self, what: str, variants: Sequence[Variant]) -> None:
        self._tell(f"{what} {', '.join(dict.fromkeys(map(str, variants)))}")
