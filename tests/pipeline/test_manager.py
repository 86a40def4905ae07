"""A pipeline as a whole: statuses, failure policies, replays, and what the record says."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import graphopt
from graphopt.errors import BadInput, PipelineError
from graphopt.record.data import PassEntry

FAULTY = str(Path(__file__).parents[1] / "faulty_passes.py")
TEXT = """<ir_version: 8, opset_import: ["": 17], producer_name: "test">
    g (float[N, 3] x) => (float[N, 3] y) {
        a = Identity(x)  b = Relu(a)  c = Identity(b)  d = Neg(c)  e = Identity(d)  y = Relu(e)
    }"""


def model() -> onnx.ModelProto:
    made = onnx.parser.parse_model(TEXT)
    for index, node in enumerate(made.graph.node):
        node.name = f"n{index}"
        node.metadata_props.add(key="scope", value=f"s{index}")
    made.metadata_props.add(key="names", value="{}")
    return made


def run(pipeline: str, **options: object) -> graphopt.Result:
    return graphopt.run(model(), pipeline, plugins=[FAULTY], cache=False, **options)  # pyright: ignore[reportArgumentType]


def entry(result: graphopt.Result, instance: str) -> PassEntry:
    return next(item for item in result.record.passes if item.instance == instance)


def test_the_record_of_a_good_run() -> None:
    result = run("eliminate-identity,eliminate-noop")
    done = entry(result, "eliminate-identity")
    assert (done.status, done.rewrites, done.nodes_before, done.nodes_after) == ("changed", 3, 6, 3)
    assert done.ops == {"Identity": -3}
    assert [site.key for site in done.sites] == [f"eliminate-identity@{name}" for name in "ace"]
    assert [node.name for node in done.nodes.removed] == ["n0", "n2", "n4"]
    assert done.check is not None
    assert done.check.verdict == "identical"
    assert entry(result, "eliminate-noop").status == "unchanged"
    assert result.verdict == "identical"
    assert result.record.result is not None
    assert result.record.result.as_loaded.verdict == "identical"
    assert result.record.feeds.sets == 6


@pytest.mark.parametrize("pipeline", ["wrong-relu", "surgeon-neg"])
def test_a_wrong_pass_stops_the_run(pipeline: str) -> None:
    with pytest.raises(graphopt.CheckFailed, match=f"'{pipeline}' breaks the model") as caught:
        run(f"eliminate-identity,{pipeline}")
    failed = caught.value.result
    assert not failed.ok
    assert entry(failed, pipeline).status == "broken"
    with pytest.raises(graphopt.CheckFailed):
        failed.save("never.onnx")
    assert not Path("never.onnx").exists()


@pytest.mark.parametrize(
    ("pipeline", "status", "says"),
    [
        ("raises", "crashed", "ZeroDivisionError: on purpose"),
        ("segfaults", "crashed", "SIGSEGV"),
        ("hangs", "timed out", "did not finish"),
        ("renames-output", "crashed", "lost or renamed the output 'y'"),
    ],
)
def test_a_failing_pass_is_named(pipeline: str, status: str, says: str) -> None:
    with pytest.raises(graphopt.CheckFailed, match=says) as caught:
        run(pipeline, timeout=2.0 if pipeline == "hangs" else 60.0)
    assert caught.value.pass_name == pipeline
    assert entry(caught.value.result, pipeline).status == status


def test_rollback_goes_on_without_the_pass() -> None:
    result = run("eliminate-identity,wrong-relu,segfaults,eliminate-noop", on_failure="rollback")
    assert result.ok
    assert [failure.instance for failure in result.dropped] == ["wrong-relu", "segfaults"]
    assert entry(result, "wrong-relu").status == "rolled back"
    assert entry(result, "segfaults").error is not None
    assert result.model.op_counts() == {"Relu": 2, "Neg": 1}
    only = graphopt.run(model(), "eliminate-identity,eliminate-noop", cache=False)
    assert result.model.digest() == only.model.digest()


def test_rollback_does_not_check_twice() -> None:
    seen: list[str] = []

    class Watch:
        def start(self, source: object, steps: object) -> None: ...
        def before_pass(self, instance: str, step: object) -> None:
            seen.append(instance)

        def after_pass(self, event: object) -> None: ...

    run("eliminate-identity,wrong-relu,eliminate-noop", on_failure="rollback", instruments=[Watch()])
    assert seen == ["eliminate-identity", "wrong-relu", "eliminate-noop"]


def test_skips_leave_out_passes_and_sites() -> None:
    assert (
        entry(run("eliminate-identity", skip=["eliminate-identity"]), "eliminate-identity").status
        == "skipped"
    )
    for skip in ("eliminate-identity@n2", "eliminate-identity@c"):
        result = run("eliminate-identity", skip=[skip])
        assert [site.node for site in entry(result, "eliminate-identity").sites] == ["n0", "n4"]


def test_a_skip_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(PipelineError, match=r"@nowhere matches no rewrite.*it rewrote n0, n2, n4"):
        run("eliminate-identity", skip=["eliminate-identity@nowhere"])
    with pytest.raises(BadInput, match="no component 'Nothing'"):
        run("ort", skip=["ort/Nothing"], check="off")


def test_fixpoint_rounds_are_told_and_capped() -> None:
    result = run("fixpoint(eliminate-identity,eliminate-noop)")
    assert [(e.instance, e.round) for e in result.record.passes] == [
        ("eliminate-identity", 1),
        ("eliminate-noop", 1),
    ]
    with pytest.raises(graphopt.CheckFailed, match="still changes the model after 1 rounds"):
        run("fixpoint(eliminate-identity){max=1}")


def test_own_tools_give_back_what_they_drop() -> None:
    result = run("onnxsim,ort", check="pass")
    assert result.model.ir.metadata_props == {"names": "{}"}
    assert result.model.ir.producer_name == "test"
    assert set(result.model.ir.opset_imports) == {""}


def test_results_of_tools_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    first = graphopt.run(model(), "ort")
    second = graphopt.run(model(), "ort")
    third = graphopt.run(model(), "ort{level=basic}")
    cached = [result.record.passes[0].cached for result in (first, second, third)]
    assert cached == [False, True, False]
    assert first.model.digest() == second.model.digest()


def test_the_given_model_is_not_changed() -> None:
    given = model()
    before = given.SerializeToString(deterministic=True)
    graphopt.run(given, "eliminate-identity")
    assert given.SerializeToString(deterministic=True) == before
