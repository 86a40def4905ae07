"""Tuning of real models, small ones: what is kept passes the check, and everything is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

import graphopt
from graphopt.cli import execute as cli
from graphopt.errors import BadInput
from graphopt.pipeline.worker import Worker
from graphopt.record.data import from_json
from graphopt.tuning import variants
from graphopt.tuning.variants import StandTrack, Variant

# An Identity and a Transpose there and back, which every pipeline takes away.
TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 4] x) => (float[N, 4] y) {
        a = Identity(x) b = Transpose<perm=[1, 0]>(a) c = Transpose<perm=[1, 0]>(b)
        d = Relu(c) y = Tanh(d) }"""
BREAKING = '''"""A pass that breaks a model."""
from dataclasses import dataclass
import onnx_ir as ir
from graphopt import Numerics, RewritePass


@dataclass(frozen=True)
class TanhToSigmoid(RewritePass[ir.Node]):
    """Replace ``Tanh`` by ``Sigmoid``, which is wrong."""

    name = "tanh-to-sigmoid"
    roots = ("Tanh",)
    numerics = Numerics.EXACT

    def match(self, node):
        return node

    def rewrite(self, match, rw):
        rw.replace(match, rw.op("Sigmoid", match.inputs[0]))
'''
Seconds = Callable[[Variant], float]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(TEXT), path)
    return path


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Seconds], list[Variant]]:
    """Gives variants the times of a function; sessions are made and fed all the same."""
    seen: list[Variant] = []

    def install(seconds: Seconds) -> list[Variant]:
        def rounds(
            self: StandTrack, running: Sequence[Variant], left: float, least: int
        ) -> list[tuple[float, ...]]:
            seen.extend(one for one in running if one not in seen)
            self._spent += left  # pyright: ignore[reportPrivateUsage]
            return [tuple(map(seconds, running))] * 20

        monkeypatch.setattr(StandTrack, "rounds", rounds)
        monkeypatch.setattr(variants, "cores_here", lambda: (2, 2))
        return seen

    return install


def test_a_tuning_from_end_to_end(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, record = tmp_path / "fast.onnx", tmp_path / "fast.json"
    command = ["tune", str(model), "-o", str(target), "--seconds", "2", "--record", str(record)]
    assert cli(command) in (0, 3)
    out = capsys.readouterr().out
    assert "pipeline" in out
    assert "this-cpu" in out
    found = from_json(record.read_bytes())
    assert found.command == "tune"
    assert found.tuning is not None
    assert found.result is not None
    assert found.result.verdict == "identical"
    kept = [entry for entry in found.tuning.variants if entry.status == "kept"]
    assert [entry.name for entry in kept if entry.kind != "session"] == [found.tuning.kept]
    assert all(entry.why for entry in found.tuning.variants if entry.name != found.tuning.kept)
    names = {entry.name for entry in found.tuning.variants if entry.kind != "session"}
    assert names == {"source", "default", "portable", "exact", "this-cpu"}
    # All pipelines come to the same two nodes, which are measured once.
    assert any("the same model as that of default" in entry.why for entry in found.tuning.variants)
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    (y,) = graphopt.run(target, graphopt.Pipeline()).session().run(None, {"x": x})
    assert np.allclose(np.asarray(y), np.tanh(np.maximum(x, 0)), atol=1e-6)


def test_what_is_fastest_is_kept_with_its_settings(
    model: Path, tmp_path: Path, timed: Callable[[Seconds], list[Variant]]
) -> None:
    def seconds(one: Variant) -> float:
        found = 2.0 if one.pipeline == "default" else 1.0
        return found * (0.5 if one.settings.threads == 1 else 1) * (0.9 if not one.settings.arena else 1)

    timed(seconds)
    tuned = graphopt.tune(model, ["default", "eliminate-identity"])
    assert tuned.entry.kept in ("eliminate-identity", "source")
    assert tuned.entry.session == ["threads=1", "arena=false"]
    assert tuned.settings == graphopt.SessionSettings(threads=1, arena=False)
    assert [round(gain.ratio, 3) for gain in tuned.entry.gains] == [0.225, 0.45][: len(tuned.entry.gains)]
    tuned.save(tmp_path / "fast.onnx")
    beside = json.loads((tmp_path / "fast.onnx.session.json").read_text())
    assert beside["settings"] == {"threads": 1, "arena": False}
    assert tuned.record.result is not None
    assert tuned.record.result.session == {"threads": 1, "arena": False}
    assert tuned.session().get_session_options().intra_op_num_threads == 1


def test_without_a_gain_the_default_is_kept_and_it_says_so(
    model: Path, timed: Callable[[Seconds], list[Variant]]
) -> None:
    timed(lambda _: 1.0)
    tuned = graphopt.tune(model)
    assert (tuned.entry.kept, tuned.entry.session) == ("default", [])
    assert "Nothing is faster" in tuned.entry.conclusion
    assert tuned.settings == graphopt.SessionSettings()


def test_a_gain_that_is_gone_when_it_is_measured_anew_is_none(
    model: Path, timed: Callable[[Seconds], list[Variant]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounds(
        self: StandTrack, running: Sequence[Variant], left: float, least: int
    ) -> list[tuple[float, ...]]:
        # The source runs beside the settings only in the end.
        lucky = "source" not in {one.name for one in running}
        return [tuple(0.5 if lucky and one.settings.threads == 1 else 1.0 for one in running)] * 20

    timed(lambda _: 1.0)
    monkeypatch.setattr(StandTrack, "rounds", rounds)
    tuned = graphopt.tune(model, ["default"])
    assert tuned.entry.session == []
    (entry,) = [entry for entry in tuned.entry.variants if entry.name == "threads=1"]
    assert entry.status == "dropped"
    assert "measured anew" in entry.why


def test_only_what_passes_the_check_is_measured(
    model: Path, tmp_path: Path, timed: Callable[[Seconds], list[Variant]]
) -> None:
    (tmp_path / "breaking.py").write_text(BREAKING)
    seen = timed(lambda one: 0.1 if one.pipeline == "tanh-to-sigmoid" else 1.0)
    tuned = graphopt.tune(
        model, ["default", "tanh-to-sigmoid"], plugins=[tmp_path / "breaking.py"], skip=["lift-constants"]
    )
    assert tuned.entry.kept == "default"
    (entry,) = [entry for entry in tuned.entry.variants if entry.name == "tanh-to-sigmoid"]
    assert entry.verdict == "broken"
    assert entry.status == "dropped"
    assert entry.why.startswith("fails the check: ")
    assert "tanh-to-sigmoid" not in {one.pipeline for one in seen}


def test_where_the_first_pipeline_fails_the_source_is_kept(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "breaking.py").write_text(BREAKING)
    command = [
        "tune",
        str(model),
        "-o",
        str(tmp_path / "out.onnx"),
        "--plugin",
        str(tmp_path / "breaking.py"),
    ]
    assert cli([*command, "-p", "tanh-to-sigmoid", "--seconds", "1", "--threads", "1", "--json"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out)
    assert found["tuning"]["kept"] == "source"
    assert {entry["name"] for entry in found["tuning"]["variants"] if entry["kind"] == "pipeline"} == {
        "tanh-to-sigmoid"
    }
    assert "threads=1" not in {entry["name"] for entry in found["tuning"]["variants"]}
    assert (tmp_path / "out.onnx").exists()


def test_a_setting_that_fails_the_check_goes(
    model: Path, timed: Callable[[Seconds], list[Variant]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphopt.tuning import making

    real = making.run

    def run(*arguments: Any, **said: Any) -> graphopt.Result:
        result = real(*arguments, **said)
        session = said["session"]
        if isinstance(session, graphopt.SessionSettings) and not session.arena:
            assert result.record.result is not None
            result.record.result.verdict = "undecided"
        return result

    monkeypatch.setattr(making, "run", run)
    timed(lambda one: (0.5 if one.settings.threads == 1 else 1) * (0.5 if not one.settings.arena else 1))
    tuned = graphopt.tune(model, ["default"])
    assert tuned.entry.session == ["threads=1"]
    (entry,) = [entry for entry in tuned.entry.variants if entry.name == "arena=false"]
    assert (entry.status, entry.verdict) == ("dropped", "undecided")


def test_without_anything_that_passes_nothing_is_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    one = tmp_path / "feed.npz"
    np.savez(one, x=x)
    np.savez(tmp_path / "wrong.npz", y=np.tanh(np.maximum(x, 0)) + np.float32(0.5))
    command = ["tune", str(model), "-o", str(tmp_path / "out.onnx"), "--seconds", "1", "--inputs", str(one)]
    assert cli([*command, "--reference", str(tmp_path / "wrong.npz")]) in (1, 4)
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_what_is_undecided_is_no_candidate(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from graphopt.tuning import making

    real = making.run

    def run(*arguments: Any, **said: Any) -> graphopt.Result:
        result = real(*arguments, **said)
        assert result.record.result is not None
        result.record.result.verdict = "undecided"
        return result

    monkeypatch.setattr(making, "run", run)
    assert cli(["tune", str(model), "-o", str(tmp_path / "out.onnx"), "--seconds", "1"]) == 4
    assert "No variant passes the check" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-p", "no-such-pass"], "no-such-pass"),
        (["--pipelines", "a{b=1}"], "--pipeline"),
        (["--without", "NoSuchFusion"], "NoSuchFusion"),
        (["--skip", "no-such-pass"], "no-such-pass"),
        (["--set", "fold-conv-bn.no_such=1"], "no_such"),
        (["--session", "treads=1"], "treads"),
        (["-o", "fast.ort"], ".ort"),
        (["--provider", "NoSuchProvider"], "NoSuchProvider"),
        (["--seconds", "0"], "--seconds"),
    ],
)
def test_bad_input_is_one_sentence(
    model: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["tune", str(model), *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not model.with_name("model.opt.onnx").exists()


def test_no_pipeline_and_no_file_are_bad_input(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least one pipeline"):
        graphopt.tune(model, [])
    with pytest.raises(BadInput, match="above 0"):
        graphopt.tune(model, seconds=0)
    with pytest.raises(BadInput, match=r"none\.onnx"):
        graphopt.tune(tmp_path / "none.onnx")


def test_a_session_that_is_not_made_leaves_the_others_standing(model: Path) -> None:
    from graphopt.bench.stand import Contender, Stand
    from graphopt.numerics.options import CheckOptions

    with Worker() as worker:
        stand = Stand(worker, CheckOptions(), spinning=True)
        first, broken = Contender.of(model), Contender(model.with_name("gone.onnx"))
        stand.enter(1, first)
        stand.enter(2, broken)
        assert broken.error
        assert list(stand.standing) == [1]
        assert len(stand.rounds([1], 0.01, 3)) >= 3
