"""Which models and pipelines a sweep has, and what decides the result of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.cluster.sending import Files
from graphopt.errors import BadInput, PipelineError
from graphopt.pipeline.spec import Pipeline
from graphopt.sweeping.tasks import Order, find_models, key_of, make_orders, split_pipelines


def _orders(texts: dict[str, str], plugins: tuple[str | Path, ...] = (), **said: object) -> list[Order]:
    fields = {"reference": None, "runtimes": (), **said}
    return make_orders(texts, plugins, (), {}, None, None, fields)


def test_models_of_files_folders_and_patterns_come_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.onnx", "a.onnx", "deep/c.onnx", "note.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = find_models([tmp_path / "b.onnx", tmp_path, f"{tmp_path}/*.onnx"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b.onnx", "a.onnx", "deep/c.onnx"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("nothing.onnx", "No such file"),
        ("*.onnx", "No such file"),
        ("note.txt", "is no .onnx file"),
        (".", "no .onnx file in the folder"),
    ],
)
def test_what_names_no_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, why: str
) -> None:
    (tmp_path / "note.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=why):
        find_models([given])


def test_pipelines_are_split_at_commas_outside_of_braces() -> None:
    found = split_pipelines(
        ["exact, mine.toml,ort{level=basic,threads=2}", "fixpoint(eliminate-identity,eliminate-dead)"]
    )
    assert list(found) == [
        "exact",
        "mine.toml",
        "ort{level=basic,threads=2}",
        "fixpoint(eliminate-identity,eliminate-dead)",
    ]
    assert split_pipelines(["small=eliminate-identity,ort{level=basic}"]) == {
        "small": "eliminate-identity,ort{level=basic}"
    }


@pytest.mark.parametrize(
    ("texts", "why"), [(["a=exact", "a=portable"], "Two pipelines"), ([" , "], "no pipeline")]
)
def test_pipelines_that_cannot_be_told_apart_are_refused(texts: list[str], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        split_pipelines(texts)


def test_options_go_to_the_pipelines_that_have_the_pass_and_must_fit_one() -> None:
    fields = {"reference": None, "runtimes": ()}
    texts = {"a": "eliminate-noop", "b": "eliminate-identity"}
    first, second = make_orders(
        texts, (), ["eliminate-identity"], {"eliminate-noop.nan": "false"}, None, None, fields
    )
    assert "nan=false" in first.passes
    assert not first.skips
    assert second.skips
    with pytest.raises(PipelineError):
        make_orders(texts, (), (), {"fold-conv-bn.nothing": "1"}, None, None, fields)


def test_a_reference_of_one_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('passes = ["eliminate-identity"]\n[check]\nreference = "saved.npz"\n')
    (tmp_path / "saved.npz").write_bytes(b"")
    with pytest.raises(BadInput, match="is of one model"):
        _orders({"p": str(file)})


def _others(pipeline: Pipeline) -> tuple[dict[str, str], ...]:
    """In place of what tells the code of passes."""
    return tuple({"code": "another"} for _ in pipeline.steps())


def test_a_task_is_another_one_with_anything_that_decides_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"one")
    plugin = tmp_path / "plug.py"
    plugin.write_text(_PLUGIN)
    versions = {"onnxruntime": "1.2"}

    def key(
        text: str = "eliminate-identity", name: str = "p", measuring: tuple[float, ...] = (), **said: object
    ) -> str:
        (order,) = _orders({name: text}, (plugin,), **said)
        return key_of(Files.of(model), order.deciding(), versions, measuring)

    first = key()
    assert key(name="another name") == first
    assert key(timeout=None) == first
    others = [key("eliminate-dead"), key(atol=1e-3), key(seed=1), key(threads=2), key(measuring=(1.0,))]
    versions["onnxruntime"] = "1.3"
    others.append(key())
    versions["onnxruntime"] = "1.2"
    model.write_bytes(b"two")
    others.append(key())
    model.write_bytes(b"one")
    plugin.write_text(_PLUGIN.replace("Nothing", "Other"))
    others.append(key())
    plugin.write_text(_PLUGIN)
    assert key() == first
    monkeypatch.setattr("graphopt.sweeping.tasks.codes_of", _others)
    others.append(key())
    assert len({first, *others}) == 1 + len(others)


def test_a_pipeline_file_comes_to_the_same_as_the_pipeline_in_it(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('base = "portable"\n[set.onnxsim]\n[check]\nsamples = 2\n')
    from_file, by_name = _orders({"p": str(file), "q": "portable"}, samples=2)
    assert from_file.deciding() == by_name.deciding()


_PLUGIN = """
from graphopt import Numerics, RewritePass

class Nothing(RewritePass):
    \"\"\"Do nothing.\"\"\"
    name = "nothing"
    roots = ("Identity",)
    numerics = Numerics.EXACT
    def match(self, node): return None
    def rewrite(self, match, rw): pass
"""
