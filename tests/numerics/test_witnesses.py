"""Other runtimes as witnesses: what counts against a result there, and what does not."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import graphopt
from graphopt.api import check as check_models
from graphopt.cli import execute as cli
from graphopt.errors import BadInput, MissingExtra
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.pair import CheckReport
from graphopt.numerics.witnesses import witness as module
from graphopt.numerics.witnesses.witness import WITNESSES, Witness, find_witnesses
from graphopt.record.data import WitnessEntry
from graphopt.record.worse import findings

RIGHT = ("identical", "rounding", "within tolerance")
HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y)'
ODD = Witness("odd", "The odd runtime", "numpy", "odd_runtime", seconds=5.0)
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "WITNESSES", (*WITNESSES, ODD))
    return tmp_path


def model(body: str, head: str = HEAD) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{head} {{ {body} }}")


def heard(a: str, b: str, runtime: str = "odd", **options: Any) -> tuple[CheckReport, WitnessEntry]:
    """The report on two models, given by their nodes, and the entry of the only witness."""
    onnx.save(model(a), "a.onnx")
    onnx.save(model(b), "b.onnx")
    report = check_models("a.onnx", "b.onnx", CheckOptions(runtimes=[runtime], **options))
    return report, report.witnesses[0]


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(BadInput, match=r"no runtime 'tflite' to ask: there are openvino, reference"):
        find_witnesses(["tflite"])
    with pytest.raises(BadInput, match=r"--reference torch:FILE\.pt"):
        find_witnesses(["torch"])


def test_a_runtime_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(MissingExtra, match=r"pip install 'graphopt\[openvino\]'"):
        find_witnesses(["openvino"])


def test_each_is_asked_once() -> None:
    assert [found.name for found in find_witnesses(["reference", "reference"])] == ["reference"]


def test_what_is_right_there_too() -> None:
    report, entry = heard("a = Exp(x) y = Mul(a, a)", "a = Add(x, x) y = Exp(a)", "reference")
    assert report.verdict in RIGHT
    assert entry.verdict in RIGHT
    assert entry.source_verdict in RIGHT
    assert (entry.version, entry.feeds) == (onnx.__version__, 2)
    assert entry.outputs[0].name == "y"


def test_what_is_wrong_everywhere_is_wrong_there() -> None:
    _, entry = heard("y = Exp(x)", "a = Exp(x) y = Add(a, a)", "reference")
    assert (entry.verdict, entry.source_verdict in RIGHT) == ("broken", True)


def test_what_is_wrong_there_alone_counts() -> None:
    report, entry = heard("y = Mul(x, x)", "a = Mul(x, x) y = Abs(a)")
    assert report.numerics.verdict == "identical"
    assert entry.verdict == "broken"
    assert entry.source_verdict in RIGHT
    assert report.verdict == "broken"
    assert report.reason.startswith("In odd: y: ")


def test_what_lacks_an_operator_that_the_source_does_without() -> None:
    report, entry = heard("y = Mul(x, x)", "a = Mul(x, x) y = Relu(a)")
    assert (report.verdict, entry.verdict) == ("does not run", "does not run")
    assert "it does not run, and the source does: There is no Relu here." in entry.reason


def test_a_source_that_does_not_run_there_is_no_fault_of_the_result() -> None:
    report, entry = heard("y = Relu(x)", "a = Relu(x) y = Relu(a)")
    assert (entry.verdict, entry.source_verdict) == ("not checked", "does not run")
    assert report.verdict == "undecided"
    assert "Neither it nor the source runs in The odd runtime: There is no Relu" in entry.reason


def test_a_result_that_runs_where_the_source_does_not() -> None:
    _, entry = heard("a = Mul(x, x) y = Relu(a)", "y = Mul(x, x)")
    assert (entry.verdict in RIGHT, entry.source_verdict) == (True, "does not run")
    assert "The source does not run in The odd runtime: There is no Relu" in entry.reason
    _, entry = heard("a = Mul(x, x) y = Relu(a)", "a = Mul(x, x) y = Abs(a)")
    assert entry.verdict == "undecided"


def test_a_runtime_that_is_off_on_the_source_judges_the_result_by_that() -> None:
    report, entry = heard("a = Mul(x, x) y = Abs(a)", "a = Abs(x) y = Mul(a, a)")
    assert entry.source_verdict == "broken"
    assert entry.verdict in RIGHT
    assert "Compared with what the source gives there" in entry.reason
    assert report.verdict in RIGHT


def test_what_is_no_more_than_the_runtimes_differ_by_blames_nobody() -> None:
    _, entry = heard("a = Mul(x, x) b = Identity(a) y = Identity(b)", "a = Mul(x, x) y = Identity(a)")
    assert (entry.source_verdict, entry.verdict) == ("broken", "undecided")
    assert "no more than the difference between the two runtimes" in entry.reason


def test_what_is_far_more_than_the_runtimes_differ_by_counts() -> None:
    a = "a = Mul(x, x) y = Abs(a)"
    _, entry = heard(a, "a = Mul(x, x) b = Abs(a) c = Mul(b, b) y = Sqrt(c)")
    assert (entry.source_verdict, entry.verdict) == ("broken", "broken")
    assert "The source itself is broken there" in entry.reason


def test_a_crash_counts_and_a_time_limit_does_not() -> None:
    _, entry = heard("y = Mul(x, x)", "a = Mul(x, x) b = Neg(a) y = Neg(b)")
    assert entry.verdict == "does not run"
    assert "killed The odd runtime's process" in entry.reason
    report, entry = heard("y = Mul(x, x)", "z = Sin(x) y = Mul(x, x)", timeout=2.0)
    assert (entry.verdict, report.verdict) == ("undecided", "undecided")
    assert "did not end within 2 s" in entry.reason
    _, entry = heard("z = Sin(x) y = Mul(x, x)", "y = Mul(x, x)", timeout=2.0)
    assert (entry.verdict, entry.source_verdict) == ("undecided", "not checked")


def test_the_smallest_feeds_are_taken() -> None:
    feeds = {"big.npz": 7, "small.npz": 1, "middle.npz": 3}
    for name, rows in feeds.items():
        np.savez(name, x=np.ones((rows, 4), np.float32))
    _, entry = heard("y = Exp(x)", "a = Exp(x) y = Add(a, a)", "reference", inputs=list(feeds))
    assert entry.feeds == 2
    assert entry.outputs[0].feed in ("small", "middle", "small.npz", "middle.npz")


def test_a_run_asks_about_its_result() -> None:
    source = model("a = Identity(x) b = Mul(a, a) y = Identity(b)")
    result = graphopt.run(source, "eliminate-identity", runtimes=["reference"])
    assert result.record.result is not None
    (entry,) = result.record.result.witnesses
    assert entry.verdict == "identical"
    assert result.verdict == "identical"


def test_a_run_whose_result_is_wrong_there_fails(here: Path) -> None:
    plugin = here / "squares.py"
    plugin.write_text(
        "import onnx\n"
        "from graphopt import Numerics, proto_pass\n"
        "@proto_pass('squares', numerics=Numerics.EXACT)\n"
        "def squares(model):\n"
        "    '''Take the magnitude of what is positive anyway.'''\n"
        "    node = model.graph.node[-1]\n"
        "    node.output[0] = 'before'\n"
        "    model.graph.node.append(onnx.helper.make_node('Abs', ['before'], ['y']))\n"
        "    return model\n"
    )
    with pytest.raises(graphopt.CheckFailed, match="The result is broken in odd: y: ") as caught:
        graphopt.run(model("y = Mul(x, x)"), "squares", plugins=[plugin], runtimes=["odd"])
    assert not caught.value.result.ok
    assert "Wrong in odd" in caught.value.result._repr_html_()  # pyright: ignore[reportPrivateUsage]


def test_values_that_change_on_purpose_are_compared_with_the_result_in_onnxruntime(here: Path) -> None:
    plugin = here / "lossy.py"
    plugin.write_text(
        "import onnx\n"
        "from graphopt import Numerics, proto_pass\n"
        "@proto_pass('scaled', numerics=Numerics.LOSSY)\n"
        "def scaled(model):\n"
        "    '''Change all values a little.'''\n"
        "    model.graph.node[-1].output[0] = 'before'\n"
        "    scale = onnx.helper.make_tensor('scale', 1, [], [1.003])\n"
        "    model.graph.initializer.append(scale)\n"
        "    model.graph.node.append(onnx.helper.make_node('Mul', ['before', 'scale'], ['y']))\n"
        "    return model\n"
    )
    options: dict[str, Any] = {"plugins": [plugin], "rtol": 0.005}
    right = graphopt.run(model("y = Mul(x, x)"), "scaled", runtimes=["reference"], **options)
    assert right.record.result is not None
    (entry,) = right.record.result.witnesses
    assert entry.verdict in RIGHT
    assert (entry.outputs[0].max_abs or 0) < 1e-5  # a hundredth of what the pass changed
    other = graphopt.run(model("a = Mul(x, x) y = Abs(a)"), "scaled", runtimes=["odd"], **options)
    assert other.record.result is not None
    (entry,) = other.record.result.witnesses
    assert (entry.verdict, other.verdict) == ("undecided", "undecided")
    assert "passes change values on purpose" in entry.reason


def test_a_verdict_that_turns_in_another_runtime_is_worse() -> None:
    records = [graphopt.run(model("y = Exp(x)"), "exact", runtimes=["reference"]).record for _ in range(2)]
    assert findings(records[0], records[1], ["verdict"]) == []
    assert records[1].result is not None
    records[1].result.witnesses[0].verdict = "broken"
    (found,) = findings(records[0], records[1], ["verdict"])
    assert found.text.startswith("in reference ")
    assert found.text.endswith("> broken")


def test_sizes_that_a_pass_froze_are_fed_there(here: Path) -> None:
    onnx.save(model("a = Identity(x) y = Mul(a, a)"), "m.onnx")
    result = graphopt.run(
        "m.onnx", "fix-dims,eliminate-identity", options={"fix-dims.dims": {"N": 3}}, runtimes=["reference"]
    )
    assert result.record.result is not None
    assert result.record.result.witnesses[0].verdict == "identical"


def test_what_the_command_line_and_the_reports_say(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model("a = Identity(x) y = Mul(a, a)"), "m.onnx")
    Path("p.toml").write_text('passes = ["eliminate-identity"]\n[check]\nruntime = "reference"\n')
    assert cli(["run", "m.onnx", "-p", "p.toml", "--report", "r.md"]) == 0
    assert "in reference" in capsys.readouterr().out
    assert "**in reference**" in Path("r.md").read_text()
    assert cli(["run", "m.onnx", "-p", "p.toml", "--report", "r.html", "--quiet"]) == 0
    assert "In reference" in Path("r.html").read_text()
    assert cli(["check", "m.onnx", "m.opt.onnx", "--runtime", "reference"]) == 0
    assert "in reference" in capsys.readouterr().out
    assert cli(["check", "m.onnx", "m.opt.onnx", "--runtime", "torch"]) == 2
    assert cli(["run", "m.onnx", "--check", "off", "--runtime", "reference"]) == 2


@needs_openvino
def test_openvino_agrees() -> None:
    report, entry = heard("a = Exp(x) y = Mul(a, a)", "a = Add(x, x) y = Exp(a)", "openvino")
    assert (entry.verdict in RIGHT, entry.source_verdict in RIGHT, entry.feeds) == (True, True, 6)
    assert report.verdict in RIGHT


@needs_openvino
def test_openvino_takes_scalars_subgraphs_and_weights_beside_the_model(here: Path) -> None:
    head = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x, int64 n) => (float[N, 4] y)
        <float[64] w>"""
    proto = model(
        """k = Constant<value = int64[1] {4}>() s = Slice(w, n0, k)
        z = Constant<value = int64 {0}>() c = Greater(n, z)
        y = If (c) <then_branch = t () => (float[N, 4] p) { p = Add(x, s) },
                    else_branch = e () => (float[N, 4] q) { q = Identity(x) }>""".replace("n0", "zero"),
        head,
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "zero"))
    weight = onnx.numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")
    proto.graph.initializer.append(weight)
    onnx.save(proto, "m.onnx", save_as_external_data=True, size_threshold=100)
    report = check_models("m.onnx", "m.onnx", CheckOptions(runtimes=["openvino"]))
    assert report.witnesses[0].verdict in RIGHT, report.witnesses[0].reason


@needs_openvino
def test_openvino_says_what_it_lacks() -> None:
    head = '<ir_version: 8, opset_import: ["": 17]> g (string[N] x) => (string[N] y)'
    onnx.save(model("y = Identity(x)", head), "m.onnx")
    (entry,) = check_models("m.onnx", "m.onnx", CheckOptions(runtimes=["openvino"])).witnesses
    assert (entry.verdict, entry.source_verdict) == ("not checked", "does not run")
    assert "no tensor of numbers" in entry.reason


@needs_openvino
def test_openvino_computes_int64_in_32_bits_and_that_is_no_fault_of_the_result() -> None:
    head = '<ir_version: 8, opset_import: ["": 17]> g (int64[N] x) => (int64[N] y)'
    big = "k = Constant<value = int64 {1099511627776}>() "
    onnx.save(model(f"{big} a = Mul(x, k) y = Identity(a)", head), "a.onnx")
    onnx.save(model(f"{big} y = Mul(x, k)", head), "b.onnx")
    report = check_models("a.onnx", "b.onnx", CheckOptions(runtimes=["openvino"]))
    (entry,) = report.witnesses
    assert (entry.source_verdict, entry.verdict) == ("broken", "identical")
    assert report.verdict == "identical"


def test_gaps_of_the_reference_evaluator_are_filled() -> None:
    head = """<ir_version: 8, opset_import: ["": 17]>
        g (float[N, 100] x, int64[N, 3] i, int8[N, 4] q) => (float[N, 3] y, float[N, 4] z)"""
    body = """y = GatherElements<axis = 1>(x, i)
        s = Constant<value = float[4] {0.5, 1.0, 2.0, 4.0}>() p = Constant<value = int8[4] {0, 1, -1, 7}>()
        z = DequantizeLinear<axis = 1>(q, s, p)"""
    onnx.save(model(body, head), "m.onnx")
    np.savez(
        "feeds.npz",
        x=np.arange(100, dtype=np.float32)[None],
        i=np.array([[99, -1, 0]], np.int64),
        q=np.ones((1, 4), np.int8),
    )
    options = CheckOptions(runtimes=["reference"], inputs=["feeds.npz"])
    (entry,) = check_models("m.onnx", "m.onnx", options).witnesses
    assert (entry.verdict, entry.source_verdict) == ("identical", "identical"), entry.reason
