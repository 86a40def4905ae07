"""The source against an outside reference: saved outputs, and PyTorch."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.api import check as check_models
from graphopt.errors import BadInput, MissingExtra, SourceDiffers
from graphopt.model import Model
from graphopt.numerics import pytorch
from graphopt.numerics.check import Checker
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.outside import export_settings, find_outside

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y, int64[N] i)
    { a = Exp(x) y = Mul(a, a) i = ArgMax<axis = 1, keepdims = 0>(x) }"""
RNG = np.random.default_rng(5)
X = RNG.standard_normal((2, 3)).astype(np.float32)
Y, BEST = np.exp(X) ** 2, X.argmax(axis=1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(TEXT), "m.onnx")
    np.savez("x.npz", x=X)
    return tmp_path


def outside(reference: str = "ref.npz", **options: Any) -> tuple[str, str, list[str]]:
    """The verdict on m.onnx, the sentence, and the notes."""
    options = {"inputs": ["x.npz"], **options}
    with Checker(CheckOptions(reference=reference, **options), path=Path("m.onnx")) as checker:
        try:
            checker.start(Model.load("m.onnx"), ())
        except SourceDiffers as error:
            return "broken", str(error), checker.notes
        assert checker.outside is not None
        return checker.outside.check.verdict, checker.outside.check.reason, checker.notes


def test_right_outputs_agree(here: Path) -> None:
    np.savez("ref.npz", y=Y, i=BEST)
    verdict, _, notes = outside()
    assert verdict in ("identical", "rounding", "within tolerance")
    assert any(note.startswith(f"The source agrees with ref.npz: {verdict}") for note in notes)


def test_other_widths_of_a_type_are_converted(here: Path) -> None:
    np.savez("ref.npz", y=Y.astype(np.float64), i=BEST.astype(np.int32))
    assert outside()[0] in ("identical", "rounding", "within tolerance")


@pytest.mark.parametrize("name", ["y", "i"])
def test_wrong_outputs_are_told(here: Path, name: str) -> None:
    np.savez("ref.npz", y=1.01 * Y if name == "y" else Y, i=2 - BEST if name == "i" else BEST)
    verdict, reason, notes = outside()
    assert verdict == "broken"
    assert reason.startswith(f"The source differs from its reference: {name}: ")
    assert not any("agrees" in note for note in notes)


def test_outputs_that_are_not_there_are_not_compared(here: Path) -> None:
    np.savez("ref.npz", y=Y)
    verdict, _, notes = outside(atol={"i": 0.0, "": 1e-5})
    assert verdict in ("identical", "rounding", "within tolerance")
    assert "The reference ref.npz has no i: not compared." in notes


def test_generated_feeds_beside_the_data_have_no_reference(here: Path) -> None:
    np.savez("ref.npz", y=Y, i=BEST)
    assert outside(samples=3)[0] in ("identical", "rounding", "within tolerance")
    np.savez("ref.npz", y=1.01 * Y, i=BEST)
    assert outside(samples=3)[0] == "broken"


def test_several_sets_are_taken_in_order(here: Path) -> None:
    for name, factor in (("a", 1), ("b", 2)):
        np.savez(f"{name}.npz", x=factor * X)
        Path("out").mkdir(exist_ok=True)
        np.savez(f"out/{name}.npz", y=np.exp(factor * X) ** 2, i=BEST)
    assert outside("out", inputs=["a.npz", "b.npz"])[0] in ("identical", "rounding", "within tolerance")
    assert outside("out", inputs=["b.npz", "a.npz"])[0] == "broken"
    with pytest.raises(BadInput, match="has 2 sets of outputs, and --inputs has 1 set of feeds"):
        outside("out", inputs=["a.npz"])


def test_an_onnx_test_data_set_has_both(here: Path) -> None:
    folder = here / "data" / "test_data_set_0"
    folder.mkdir(parents=True)
    for name, array in (("input_0", X), ("output_0", Y), ("output_1", BEST)):
        (folder / f"{name}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
    assert outside("data", inputs=["data"])[0] in ("identical", "rounding", "within tolerance")
    (folder / "output_1.pb").write_bytes(numpy_helper.from_array(2 - BEST).SerializeToString())
    assert outside("data", inputs=["data"])[1].startswith("The source differs from its reference: i: ")


@pytest.mark.parametrize(
    ("reference", "options", "arrays", "says"),
    [
        ("ref.npz", {"inputs": ()}, {"y": Y}, "nothing says of which inputs: give these with --inputs"),
        ("ref.npz", {}, {"z": Y}, "'z', which is no output of the model: y, i"),
        ("ref.npz", {}, {}, "is empty: it needs arrays by the names y, i"),
        ("ref.npz", {}, {"y": Y[:1]}, r"shape \[1, 3\] for the output 'y', which is \[2, 3\] on feed x.npz"),
        ("ref.npz", {}, {"i": Y[:, 0]}, "has float32 for the output 'i', which is int64"),
        ("none.npz", {}, {}, "There is no reference at 'none.npz'"),
        ("m.onnx", {}, {}, "Cannot read the reference 'm.onnx'"),
        ("torch:none.pt", {}, {}, "No such file: 'none.pt'"),
        (".", {}, None, "has 2 sets of outputs|no output of the model"),
    ],
)
def test_what_is_no_reference_is_one_sentence(
    here: Path, reference: str, options: dict[str, Any], arrays: dict[str, Any] | None, says: str
) -> None:
    np.savez("ref.npz", **(arrays or {}))
    with pytest.raises(BadInput, match=says):
        outside(reference, **options)


def test_torch_that_is_not_installed_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("m.pt").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(MissingExtra, match=r"graphopt\[yolo\]"):
        find_outside(CheckOptions(reference="torch:m.pt"))


def test_a_wrong_source_is_not_optimized(here: Path) -> None:
    np.savez("ref.npz", y=-Y, i=BEST)
    with pytest.raises(graphopt.CheckFailed, match="The source differs from its reference: y: ") as caught:
        graphopt.run("m.onnx", "exact", inputs=["x.npz"], reference="ref.npz")
    result = caught.value.result
    assert not result.ok
    assert result.record.reference is not None
    assert result.record.reference.check.verdict == "broken"
    assert result.record.passes == []
    with pytest.raises(graphopt.CheckFailed, match="not saved"):
        result.save("o.onnx")


def test_a_pipeline_file_can_name_it(here: Path) -> None:
    np.savez("ref.npz", y=Y, i=BEST)
    file = here / "p.toml"
    file.write_text('base = "exact"\n[check]\ninputs = ["x.npz"]\nreference = "ref.npz"\nspecial = true\n')
    record = graphopt.run("m.onnx", str(file)).record
    assert record.reference is not None
    assert record.reference.origin == "ref.npz"
    assert record.feeds.origin.endswith("x.npz, and found automatically")
    assert record.feeds.sets == 2
    assert graphopt.run("m.onnx", str(file), check="off").record.reference is None
    with pytest.raises(BadInput, match="A reference needs the check"):
        graphopt.run("m.onnx", "exact", check="off", inputs=["x.npz"], reference="ref.npz")


def test_doubt_about_the_source_is_doubt_about_the_result(here: Path) -> None:
    rounded = """<ir_version: 8, opset_import: ["": 17]>
        g (float[4] x) => (float[4] y) { s = RandomNormalLike(x) y = Add(x, s) }"""
    onnx.save(onnx.parser.parse_model(rounded), "m.onnx")
    np.savez("x.npz", x=np.ones(4, np.float32))
    np.savez("ref.npz", y=np.ones(4, np.float32))
    result = graphopt.run("m.onnx", "eliminate-dead", inputs=["x.npz"], reference="ref.npz")
    assert result.verdict == "undecided"
    assert any(note.startswith("Whether the source agrees with ref.npz") for note in result.record.notes)
    report = check_models("m.onnx", "m.onnx", CheckOptions(inputs=["x.npz"], reference="ref.npz"))
    assert report.verdict == "undecided"


def test_what_the_exporter_recorded_is_exported_again() -> None:
    proto = onnx.parser.parse_model(TEXT)
    args = "{'batch': 2, 'half': True, 'nms': None, 'dynamic': True}"
    onnx.helper.set_model_props(proto, {"args": args, "imgsz": "[320, 160]"})
    settings = {"simplify": False, "batch": 2, "dynamic": True, "imgsz": [320, 160]}
    assert export_settings(Model.from_proto(proto), [X]) == settings
    onnx.helper.set_model_props(proto, {"args": "?"})
    image = np.zeros((1, 3, 64, 32), np.float32)
    assert export_settings(Model.from_proto(proto), [image]) == {"simplify": False, "imgsz": [64, 32]}


@pytest.mark.yolo
@pytest.mark.filterwarnings("ignore")
class TestTorch:
    @pytest.fixture
    def module(self, here: Path) -> Any:
        """A small network, as m.pt and m.onnx."""
        torch: Any = pytest.importorskip("torch")
        torch.manual_seed(1)
        nn = torch.nn
        layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 4, 1), nn.Sigmoid())
        module = nn.Sequential(*layers).eval()
        torch.save(module, "m.pt")
        torch.onnx.export(module, (torch.zeros(1, 3, 8, 8),), "m.onnx", dynamo=False, input_names=["x"])
        return module

    def run(self) -> tuple[str, str, list[str]]:
        return outside("torch:m.pt", inputs=(), samples=3)

    def tamper(self, change: Any) -> None:
        proto = onnx.load("m.onnx")
        weight = next(w for w in proto.graph.initializer if len(w.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)), weight.name))
        onnx.save(proto, "m.onnx")

    def test_a_right_export_agrees(self, module: Any) -> None:
        verdict, _, notes = self.run()
        assert verdict in ("identical", "rounding")
        assert any(note.startswith(f"The source agrees with torch:m.pt: {verdict}") for note in notes)

    @pytest.mark.parametrize("factor", [-1.0, 1.001])
    def test_a_wrong_export_is_told(self, module: Any, factor: float) -> None:
        self.tamper(lambda array: np.float32(factor) * array)  # pyright: ignore
        verdict, reason, _ = self.run()
        assert verdict == "broken"
        assert reason.startswith("The source differs from its reference: ")

    def test_a_script_is_run(self, module: Any) -> None:
        import torch

        script: Any = torch.jit.trace(module, torch.zeros(1, 3, 8, 8))
        script.save("m.pt")
        assert self.run()[0] in ("identical", "rounding")

    def test_half_weights_are_run_as_float32(self, module: Any) -> None:
        import torch

        torch.save(module.half(), "m.pt")
        # Rounding the weights to 16 bits is a fault of its own size, and more than rounding in float32.
        assert self.run()[0] == "broken"
        module.float()
        torch.onnx.export(module, (torch.zeros(1, 3, 8, 8),), "m.onnx", dynamo=False, input_names=["x"])
        assert self.run()[0] in ("identical", "rounding")

    def test_what_is_no_module_is_one_sentence(self, module: Any) -> None:
        import torch

        for content, says in (
            (module.state_dict(), "m.pt holds no module but OrderedDict"),
            (torch.nn.Linear(3, 3), "torch:m.pt does not run on what the model is fed: RuntimeError"),
            (torch.nn.Sequential(module, torch.nn.Flatten()), "cannot be mapped.*none fits: it gives"),
        ):
            torch.save(content, "m.pt")
            with pytest.raises(BadInput, match=says):
                self.run()
        Path("m.pt").write_text("nothing")
        with pytest.raises(BadInput, match=r"PyTorch cannot load m\.pt: "):
            self.run()

    def test_a_class_that_is_not_there_is_named(self, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        name = "ultralytics.gone"
        gone = types.ModuleType(name)
        vars(gone)["Net"] = type("Net", (torch.nn.Identity,), {"__module__": name})
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, name, gone)
            torch.save(vars(gone)["Net"](), "m.pt")
        with pytest.raises(BadInput, match=r"m\.pt is of a class in the module 'ultralytics\.gone'"):
            self.run()
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # pyright: ignore
        with pytest.raises(MissingExtra, match=r"m\.pt needs ultralytics: pip install"):
            pytorch._load("m.pt", ".", {})  # pyright: ignore[reportPrivateUsage]

    def test_two_ways_to_map_are_none(self, module: Any) -> None:
        from graphopt.numerics.outside import _places  # pyright: ignore[reportPrivateUsage]

        pair, other = np.zeros((2, 3)), np.zeros(4)
        assert _places("m", [other, pair, other], {"a": pair}) == [1]
        assert _places("m", [pair, other, pair], {"a": other, "b": pair}) == [1, 2]
        assert _places("m", [pair, pair], {"a": pair, "b": pair}) == [0, 1]
        with pytest.raises(BadInput, match="more than one choice fits"):
            _places("m", [pair, other, pair], {"a": pair})
