"""The whole job on a real YOLOv8n: exported, optimized, checked, and still predicting the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.cli import execute as cli
from graphopt.errors import BadInput
from graphopt.exporting.enliven import enliven
from graphopt.exporting.yolo import export
from graphopt.numerics.options import CheckOptions

pytestmark = [pytest.mark.yolo, pytest.mark.filterwarnings("ignore")]  # Ultralytics and PyTorch warn a lot
pytest.importorskip("ultralytics")


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yolo")
    done = export("yolov8n.yaml", folder / "yolov8n.onnx", {"imgsz": "320", "opset": "17"})
    assert done.origin == "random weights, seed 0"
    assert [path.name for path in folder.iterdir()] == ["yolov8n.onnx"]
    return done.path


def boxes(path: Path) -> Any:
    """What Ultralytics' own backend and non-maximum suppression make of a picture."""
    import torch
    from torch.nn.functional import interpolate
    from ultralytics.nn.autobackend import AutoBackend
    from ultralytics.utils.nms import non_max_suppression

    coarse = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(3))
    picture = interpolate(coarse, size=(320, 320), mode="bicubic").clamp(0, 1)
    backend = AutoBackend(str(path), device=torch.device("cpu"), verbose=False)
    assert len(backend.names) == 80
    output = backend(picture)
    return non_max_suppression(torch.as_tensor(output[0] if isinstance(output, list) else output), 0.25, 0.45)


@pytest.mark.parametrize("pipeline", ["default", "portable", "this-cpu"])
def test_the_result_predicts_the_same(yolo: Path, tmp_path: Path, pipeline: str) -> None:
    import torch

    result = graphopt.run(yolo, pipeline, samples=3)
    assert result.ok
    assert result.record.result is not None
    assert result.record.result.metadata_kept == result.record.result.metadata_total >= 10
    if pipeline == "portable":
        assert result.model.node_count() <= 234
        assert result.record.result.portability == "any runtime"
    result.save(tmp_path / "opt.onnx")
    expected, actual = boxes(yolo)[0], boxes(tmp_path / "opt.onnx")[0]
    assert len(expected) > 10
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-2)


def test_exported_twice_is_the_same(yolo: Path, tmp_path: Path) -> None:
    again = export("yolov8n.yaml", tmp_path / "again.onnx", {"imgsz": "320", "opset": "17"})
    assert onnx.load(again.path).graph == onnx.load(yolo).graph


def test_the_export_agrees_with_its_weights(tmp_path: Path) -> None:
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    model: Any = YOLO("yolov8n.yaml")
    enliven(model.model, 0)
    weights, path = tmp_path / "yolov8n.pt", tmp_path / "yolov8n.onnx"
    model.save(str(weights))
    export(weights, path, {"imgsz": "160"})
    options = CheckOptions(samples=3, reference=f"torch:{weights}")
    report = graphopt.check(path, path, options)
    assert report.verdict == "rounding"
    assert any(note.startswith("The source agrees with torch:yolov8n.pt: rounding") for note in report.notes)
    proto = onnx.load(path)
    bias = next(w for w in proto.graph.initializer if w.name == "model.12.m.0.cv2.conv.bias")
    bias.raw_data = (1.02 * onnx.numpy_helper.to_array(bias)).astype("float32").tobytes()
    onnx.save(proto, path)
    report = graphopt.check(path, path, options)
    assert report.verdict == "broken"
    assert report.reason.startswith("The source differs from its reference: output0: ")


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("nothing.pt", {}, "No such file"),
        ("model.bin", {}, "give a .pt or .yaml"),
    ],
)
def test_what_does_not_export_is_one_sentence(
    tmp_path: Path, source: str, options: dict[str, str], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        export(source, tmp_path / "out.onnx", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_everything_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The line of the tutorial, as a shell runs it."""
    image = pytest.importorskip("PIL.Image")
    page = (Path(__file__).parents[1] / "docs" / "tutorial-yolov8n.md").read_text(encoding="utf-8")
    line = page.partition('title="everything.sh"\n')[2].partition("```")[0]
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for number in range(8):
        coarse = image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        coarse.resize((320, 240), image.Resampling.BICUBIC).save(tmp_path / "images" / f"{number}.png")
    script = f'graphopt() {{ "{sys.executable}" -m graphopt "$@"; }}; {line}'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("The source agrees with torch:yolov8n.pt") == 3
    table = done.stdout[done.stdout.index("ratio (95 %)") :]
    for name in ("yolov8n.opt.onnx", "yolov8n.ort", "yolov8n.int8.onnx"):
        assert name in table
    assert (tmp_path / "yolov8n.int8.onnx").stat().st_size < (tmp_path / "yolov8n.onnx").stat().st_size / 3


def test_the_demo_names_its_careless_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(["demo"]) == 0
    assert "CULPRIT 1 of 1  softmax-last@" in capsys.readouterr().out
    assert (tmp_path / "demo" / "fault" / "repro.py").is_file()
