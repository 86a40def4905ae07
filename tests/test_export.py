"""Export of Ultralytics models: what is checked, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.cli import execute as cli
from graphopt.errors import BadInput, MissingExtra
from graphopt.exported import ExportDiffers, Exported, ExportReport
from graphopt.exporting import served
from graphopt.exporting.checking import check_exported
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.pytorch import TorchRun
from graphopt.record.data import CheckEntry, Feeds, Tolerance

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) { y = Exp(x) z = Neg(x) }"""


class Live:
    """A module of PyTorch, as far as a check sees it."""

    def __init__(self, factor: float = 1.0, *, narrow: bool = False) -> None:
        self.factor, self.narrow, self.runs = factor, narrow, 0

    @property
    def label(self) -> str:
        return "torch:Live"

    def run(self, feeds: Any, timeout: float | None) -> list[TorchRun]:
        self.runs += 1
        if self.narrow:
            return [TorchRun([np.exp(feed["x"])[:, :2], -feed["x"]]) for feed in feeds]
        return [TorchRun([self.factor * np.exp(feed["x"]), -feed["x"]]) for feed in feeds]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(TEXT), path)
    return path


def check(path: Path, reference: Live) -> ExportReport:
    return check_exported(path, reference, CheckOptions(samples=2), hint="check=False")


def test_a_live_reference_is_asked(model: Path) -> None:
    report = check(model, Live())
    assert report.verdict in ("identical", "rounding")
    assert report.label == "torch:Live"
    assert report.feeds.sets == 2
    assert [output.name for output in report.check.outputs] == ["y", "z"]


def test_what_differs_is_told(model: Path) -> None:
    with pytest.raises(ExportDiffers, match=r"not what torch:Live computes.*check=False.*: y: ") as caught:
        check(model, Live(1.01))
    assert caught.value.exit_code == 1
    assert caught.value.report.verdict == "broken"


def test_another_shape_is_wrong_and_no_bad_input(model: Path) -> None:
    with pytest.raises(ExportDiffers, match="shape"):
        check(model, Live(narrow=True))


def test_a_file_that_is_not_there_yet_is_not_named(tmp_path: Path) -> None:
    path = tmp_path / "scratch.onnx"
    text = TEXT.replace("Exp(x)", "Nothing.of.this (x)").replace("Nothing.of.this", "Nothing")
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(BadInput, match=r"^The exported model does not run") as caught:
        check(path, Live())
    assert "scratch" not in str(caught.value)


def test_a_run_checks_what_was_not(model: Path) -> None:
    live = Live()
    result = graphopt.run(Exported(model, "here", reference=live), "exact", samples=2)
    assert result.record.reference is not None
    assert result.record.reference.origin == "torch:Live"
    assert live.runs == 1
    with pytest.raises(graphopt.CheckFailed, match="The source differs from its reference: y: "):
        graphopt.run(Exported(model, "here", reference=Live(2.0)), "exact", samples=2)
    assert graphopt.run(Exported(model, "here", reference=Live(2.0)), "exact", check="off").ok
    report = graphopt.check(Exported(model, "here", reference=Live(2.0)), model, CheckOptions(samples=2))
    assert report.verdict == "broken"


def test_a_run_knows_of_an_earlier_check(model: Path) -> None:
    report = ExportReport("torch:Live", CheckEntry("rounding"), Feeds(2, [0], ""), Tolerance(0, 0))
    done = Exported(model, "Live by dynamo", report, (), Live(2.0))
    result = graphopt.run(done, "exact", samples=2)
    assert result.record.reference is None
    said = "It was exported from Live by dynamo, and checked against torch:Live: rounding."
    assert said in result.record.notes
    assert graphopt.check(done, done, CheckOptions(samples=2)).verdict == "identical"
    assert graphopt.diff(done, model) == graphopt.diff(model, model)


def test_options_without_an_export_are_told(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["run", str(model), "--export", "imgsz=320"]) == 2
    assert "leave out --export" in capsys.readouterr().err


def test_extras_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(MissingExtra, match=r"graphopt\[yolo\]"):
        graphopt.export("yolov8n.yaml", "y.onnx")
    with pytest.raises(MissingExtra, match=r"needs torch: pip install"):
        graphopt.export_torch(object(), ())


@pytest.mark.yolo
@pytest.mark.filterwarnings("ignore")
class TestUltralytics:
    @pytest.fixture(scope="class")
    def here(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with n.onnx, and n.pt, its weights."""
        pytest.importorskip("ultralytics")
        folder = tmp_path_factory.mktemp("export")
        done = graphopt.export(
            "yolov8n.yaml", folder / "n.onnx", {"imgsz": 96, "seed": "1"}, weights=folder / "n.pt"
        )
        assert done.origin == "random weights, seed 1"
        assert done.report is not None
        assert done.report.verdict == "rounding"
        assert done.reference is None
        assert sorted(path.name for path in folder.iterdir()) == ["n.onnx", "n.pt"]
        return folder

    def test_the_saved_weights_are_those_of_the_export(self, here: Path) -> None:
        options = CheckOptions(samples=2, reference=f"torch:{here / 'n.pt'}")
        report = graphopt.check(here / "n.onnx", here / "n.onnx", options)
        assert any(note.startswith("The source agrees with torch:n.pt: ") for note in report.notes)

    def test_a_wrong_export_is_not_written(
        self, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from graphopt.exporting import yolo

        original = yolo.KeptModule.run

        def other(self: Any, feeds: Any, timeout: Any) -> Any:
            runs = original(self, feeds, timeout)
            return [TorchRun([1.01 * array for array in run.outputs]) for run in runs]

        monkeypatch.setattr(yolo.KeptModule, "run", other)
        with pytest.raises(ExportDiffers, match=r"torch:n\.pt computes, and was not written \(--check off"):
            graphopt.export(here / "n.pt", tmp_path / "n.onnx", {"imgsz": 96})
        assert list(tmp_path.iterdir()) == []

    def test_a_run_of_weights_is_checked_against_them(
        self, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "m.pt").write_bytes((here / "n.pt").read_bytes())
        words = ["run", str(tmp_path / "m.pt"), "--export", "imgsz=96", "-p", "exact", "--samples", "2"]
        assert cli([*words, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["reference"]["origin"] == "torch:m.pt"
        assert record["reference"]["check"]["verdict"] == "rounding"
        assert record["source"]["inputs"] == ["images float[1,3,96,96]"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.opt.onnx", "m.pt"]
        words = ["check", str(tmp_path / "m.pt"), str(tmp_path / "m.opt.onnx"), "--samples", "2"]
        assert cli([*words, "--export", "imgsz=96"]) == 0
        assert "The source agrees with torch:m.pt" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"imgz": 320}, "Wrong export option: 'imgz' is not a valid YOLO argument. Similar.*imgsz"),
            ({"opset": "abc"}, "Wrong export option: 'opset=abc' is of invalid type"),
            ({"format": "engine"}, "'format' is set already"),
            ({"lr0": 0.1}, "makes no use of 'lr0' here: leave it out."),
            ({"conf": 0.3}, "no use of 'conf' here: leave it out, or give nms=True"),
            ({"workspace": 4}, "does not export: .*'workspace' is not supported for format='onnx'"),
            ({"quantize": 8}, "An int8 export changes values on purpose"),
            ({"seed": "x"}, "The seed must be a whole number"),
        ],
    )
    def test_options_are_those_of_ultralytics(
        self, here: Path, tmp_path: Path, options: dict[str, Any], says: str
    ) -> None:
        with pytest.raises(BadInput, match=says):
            graphopt.export("yolov8n.yaml", tmp_path / "o.onnx", {"imgsz": 96, **options})
        assert list(tmp_path.iterdir()) == []

    def test_weights_have_no_seed_and_are_not_saved(self, here: Path, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="A seed is for the random weights"):
            graphopt.export(here / "n.pt", tmp_path / "o.onnx", {"seed": 1})
        with pytest.raises(BadInput, match="has its weights already"):
            graphopt.export(here / "n.pt", tmp_path / "o.onnx", weights=tmp_path / "w.pt")


def test_nothing_kept_is_told() -> None:
    served._kept.clear()  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(BadInput, match=r"does not export by torch\.onnx\.export"):
        served.run_kept([[]])
