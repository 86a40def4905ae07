"""The assertions of a pass author."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx

from graphopt.model import Model
from graphopt.pipeline.examples import example_of
from graphopt.properties.applying import Applied, PassSource, apply, pipeline_of
from graphopt.properties.faults import NOT_IDEMPOTENT, Fault, invalid
from graphopt.properties.holding import Proof, Prover
from graphopt.properties.values import ValueCheck
from graphopt.properties.wording import diff_lines, feed_text, model_text
from graphopt.rewrite.diff import structural_diff
from graphopt.rewrite.passes import Numerics, Pass
from graphopt.testing.sources import ModelSource, model

Feeds = Sequence[Mapping[str, Any]]


def assert_rewrites(
    step: PassSource,
    before: ModelSource,
    after: ModelSource | None = None,
    *,
    applied: int | None = None,
    numerics: Numerics | None = None,
    tolerance: float | None = None,
    feeds: Feeds | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    idempotent: bool = True,
    run: bool = True,
) -> onnx.ModelProto:
    """Require that a pass makes ``after`` of ``before``, and that it keeps what it promises.

    What it promises: the result is valid where ``before`` was; the signature is kept, or as declared; the
    outputs are equal at the declared numerics on feeds of several distributions (`Numerics.EXACT` bit for
    bit, NaN, infinities and zeros of both signs among them; `Numerics.REASSOCIATES` within rounding, which
    float64 decides place by place; `Numerics.LOSSY` within ``tolerance`` if one is given); a second run
    changes nothing.

    Args:
        step: A pass, the class of one that needs no options, or a pipeline.
        before: A model: ONNX text, a path, or a model in memory; see `graphopt.testing.model`.
        after: What is expected; names of values and nodes do not matter. None to expect any change.
        applied: How often the pass is expected to rewrite; of a pass that changes the whole model at once,
            how many of its runs change it.
        numerics: What to demand of the values in place of what the pass declares.
        tolerance: What outputs may differ by, as a share of the largest magnitude of each.
        feeds: What to run the models on, in place of feeds that are found.
        dims: Sizes of symbolic dims for feeds that are found.
        seed: What feeds that are found start from.
        idempotent: Whether to demand that a second run changes nothing.
        run: Whether to run the models: off for operators that no runtime at hand knows.

    Returns:
        The result.

    Raises:
        AssertionError: With what is not as it should be.
        BadInput: A model or the pass cannot be used.
    """
    __tracebackhide__ = True
    source = model(before)
    prover = Prover(
        step,
        numerics=numerics,
        tolerance=tolerance,
        seed=seed,
        idempotent=idempotent,
        closer=True,
        run=run,
    )
    title = str(prover.pipeline)
    proof = prover.prove(source, feeds=feeds, dims=dims)
    done = proof.applied
    if done.model is None:
        raise AssertionError(_failed(title, done.failure or f"It refuses the model: {done.refused}", source))
    # What the pass made is told first: that it also breaks a promise follows from it.
    if after is not None:
        _expect_equal(title, source, model(after), done, proof.fault)
    elif not done.changed:
        raise AssertionError(_failed(title, f"It changes nothing.{_declined(done)}", source))
    if applied is not None and done.rewrites != applied:
        what = f"It rewrites {done.rewrites} times, not {applied}: {_listed(done.sites)}.{_declined(done)}"
        raise AssertionError(_failed(title, what, source, done.model))
    if proof.fault is not None:
        raise AssertionError(_faulty(title, source, done.model, proof.fault))
    if done.changed and run:
        _expect_run(title, source, proof)
    return done.model


def assert_holds(
    step: PassSource,
    source: ModelSource,
    *,
    numerics: Numerics | None = None,
    tolerance: float | None = None,
    feeds: Feeds | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    idempotent: bool = True,
) -> bool:
    """Require that a pass keeps what it promises on a model, whatever it makes of it.

    What it promises is said at `assert_rewrites`. For generated models, as the fixture
    ``graphopt_models`` gives them: one that cannot be run, or that the pass refuses, is none of its faults.

    Args:
        step: A pass, the class of one that needs no options, or a pipeline.
        source: The model; see `graphopt.testing.model`.
        numerics: What to demand of the values in place of what the pass declares.
        tolerance: What outputs may differ by, as a share of the largest magnitude of each.
        feeds: What to run the models on, in place of feeds that are found.
        dims: Sizes of symbolic dims for feeds that are found.
        seed: What feeds that are found start from.
        idempotent: Whether to demand that a second run changes nothing.

    Returns:
        Whether the pass changed the model.

    Raises:
        AssertionError: With what does not hold.
        BadInput: The model or the pass cannot be used.
    """
    __tracebackhide__ = True
    before = model(source)
    prover = Prover(step, numerics=numerics, tolerance=tolerance, seed=seed, idempotent=idempotent)
    proof = prover.prove(before, feeds=feeds, dims=dims)
    if proof.fault is not None:
        raise AssertionError(_faulty(str(prover.pipeline), before, proof.applied.model, proof.fault))
    return proof.applied.changed


def assert_example(cls: type[Pass]) -> onnx.ModelProto:
    """Require that a pass does something with the example in its docstring, and keeps what it promises.

    The section ``Example:`` holds a model as ONNX text; where the pass needs options, its first line is the
    pass with them, as in a pipeline: ``my-pass{size=1}``. What it promises is said at `assert_rewrites`.

    Args:
        cls: The class of the pass.

    Returns:
        What it makes of the example.

    Raises:
        AssertionError: There is no example, the pass leaves it as it is, or something does not hold.
        BadInput: The example cannot be read.
    """
    __tracebackhide__ = True
    example = example_of(cls)
    if example is None:
        raise AssertionError(f"{cls.name}: its docstring has no section 'Example:' with a model.")
    why = invalid(example.before)
    if why:
        raise AssertionError(_failed(cls.name, f"Its example is not valid: {why}", example.before))
    return assert_rewrites(example.pipeline, example.before)


def assert_declines(step: PassSource, source: ModelSource, reason: str | None = None) -> None:
    """Require that a pass leaves a model as it is.

    Args:
        step: A pass, the class of one that needs no options, or a pipeline.
        source: The model; see `graphopt.testing.model`.
        reason: A part of the reason that the pass must give.

    Raises:
        AssertionError: It changes something, fails, or gives another reason or none.
        BadInput: The model or the pass cannot be used.
    """
    __tracebackhide__ = True
    before = model(source)
    pipeline = pipeline_of(step)
    done = apply(pipeline, before)
    title = str(pipeline)
    if done.model is None and not done.refused:
        raise AssertionError(_failed(title, done.failure, before))
    if done.changed:
        what = f"It rewrites {_listed(done.sites)}, which it should leave alone."
        raise AssertionError(_failed(title, what, before, done.model))
    given = [*done.declined, *([done.refused] if done.refused else [])]
    if reason is not None and not any(reason in one for one in given):
        what = f"It leaves the model alone, but not because '{reason}'.{_declined(done)}"
        raise AssertionError(_failed(title, what, before))


def assert_same_outputs(
    a: ModelSource,
    b: ModelSource,
    *,
    numerics: Numerics = Numerics.EXACT,
    tolerance: float | None = None,
    feeds: Feeds | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
) -> None:
    """Require that two models give the same.

    Args:
        a: The model that is right; see `graphopt.testing.model`.
        b: The other one.
        numerics: How they may differ; see `assert_rewrites`.
        tolerance: What outputs may differ by, as a share of the largest magnitude of each.
        feeds: What to run the models on, in place of feeds that are found.
        dims: Sizes of symbolic dims for feeds that are found.
        seed: What feeds that are found start from.

    Raises:
        AssertionError: An output differs.
        BadInput: A model cannot be used.
    """
    __tracebackhide__ = True
    models = model(a), model(b)
    check = ValueCheck(numerics, tolerance=tolerance, seed=seed, closer=True)
    found = check.compare(*models, feeds=feeds, dims=dims)
    if found.fault is not None:
        raise AssertionError(_faulty("The models differ", *models, found.fault))
    if found.unfit:
        raise AssertionError(_failed("The models cannot be compared", found.unfit, models[0]))


def _expect_equal(
    title: str, source: onnx.ModelProto, expected: onnx.ModelProto, done: Applied, fault: Fault | None
) -> None:
    __tracebackhide__ = True
    assert done.model is not None
    diff = structural_diff(Model.of(expected).ir, Model.of(done.model).ir)
    if not diff:
        return
    rewritten = f"It rewrites {_listed(done.sites)}." if done.changed else "It changes nothing."
    also = [] if fault is None or fault.kind == NOT_IDEMPOTENT else [f"And {fault.text}."]
    raise AssertionError(
        "\n".join(
            [
                f"{title}: the result is not what is expected. {rewritten}{_declined(done)}",
                *also,
                "",
                "from what is expected to what it is:",
                *(f"  {line}" for line in diff_lines(diff)),
                *_shown("before", source),
                *_shown("expected", expected),
                *_shown("the result", done.model),
            ]
        )
    )


def _expect_run(title: str, source: onnx.ModelProto, proof: Proof) -> None:
    __tracebackhide__ = True
    if not proof.unfit:
        return
    why = invalid(source)
    hint = f" onnx.checker: {why}" if why else ""
    raise AssertionError(
        _failed(title, f"The model cannot be run: {proof.unfit}{hint} (run=False leaves that out.)", source)
    )


def _faulty(title: str, before: onnx.ModelProto, after: onnx.ModelProto | None, fault: Fault) -> str:
    feeds = [] if fault.feed is None else ["", "the feed:", _indented(feed_text(fault.feed.arrays))]
    return "\n".join([_failed(title, f"{fault.text} ({fault.kind})", before, after), *feeds])


def _failed(title: str, what: str, before: onnx.ModelProto, after: onnx.ModelProto | None = None) -> str:
    result = [] if after is None else _shown("after", after)
    return "\n".join([f"{title}: {what}", *_shown("before", before), *result])


def _shown(title: str, content: onnx.ModelProto) -> list[str]:
    return ["", f"{title}:", _indented(model_text(content))]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _listed(sites: Iterable[str]) -> str:
    return ", ".join(sites) or "nothing"


def _declined(done: Applied) -> str:
    if not done.declined:
        return ""
    return f" It declined: {'; '.join(f'{reason} ({count})' for reason, count in done.declined.items())}."
