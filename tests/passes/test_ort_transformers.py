from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
import real_faults
import transformer_models

import graphopt
from graphopt import BadInput, MissingExtra, ToolReport
from graphopt_passes import _peers
from graphopt_passes._transformer_kinds import detect
from graphopt_passes.ort_transformers import OrtTransformers
from tests import support

pytest.importorskip("sympy")

ENCODER = transformer_models.encoder()
FUSED = ["EmbedLayerNormalization", "Attention", "BiasGelu", "SkipLayerNormalization"]
IDS = {"input_ids": np.array([[1, 2, 3, 4, 5, 6], [6, 6, 5, 1, 0, 3]], np.int64)}
HOLES = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1]], np.int64)
PADDED = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], np.int64)


def apply(
    source: onnx.ModelProto, folder: Path, *disabled: str, step: OrtTransformers | None = None, **data: Any
) -> tuple[onnx.ModelProto, ToolReport]:
    """Run the pass from file to file."""
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True)
    copy = onnx.ModelProto()
    copy.CopyFrom(source)
    onnx.save(copy, folder / "in" / "model.onnx", **data)
    target = folder / "out" / "result.onnx"
    report = (step or OrtTransformers()).transform_file(folder / "in/model.onnx", target, frozenset(disabled))
    assert {path.name for path in (folder / "out").iterdir()} <= {"result.onnx", "result.onnx.data"}
    return onnx.load(target), report


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def difference(one: onnx.ModelProto, other: onnx.ModelProto, mask: Any) -> float:
    feeds = {**IDS, "attention_mask": mask}
    left, right = support.outputs(one, feeds), support.outputs(other, feeds)
    return float(np.abs(left["y"] - right["y"]).max())


def test_fuses_an_encoder(tmp_path: Path) -> None:
    result, report = apply(transformer_models.encoder(2), tmp_path)
    assert set(FUSED) <= set(ops(result))
    assert not {"Softmax", "Erf", "LayerNormalization"} & set(ops(result))
    assert set(report.components) == {
        "attention", "bias_gelu", "bias_skip_layer_norm", "embed_layer_norm", "gelu", "skip_layer_norm",
    }  # fmt: skip
    assert report.portability == "onnxruntime"
    told, made = report.notes
    assert told == (
        "taken for bert: 2 x attention, 5 x layer norm, token ids 'input_ids', no causal mask,"
        " 2 heads in a width of 8"
    )
    assert made == "made 4 SkipLayerNormalization, 2 Attention, 2 BiasGelu, 1 EmbedLayerNormalization"
    for mask in (HOLES, PADDED):
        assert difference(transformer_models.encoder(2), result, mask) < 1e-5


@pytest.mark.parametrize("name", ["attention", "gelu", "skip_layer_norm", "embed_layer_norm"])
def test_a_component_is_off_alone(name: str, tmp_path: Path) -> None:
    result, report = apply(ENCODER, tmp_path, name)
    gone = {"attention": "Attention", "gelu": "BiasGelu", "skip_layer_norm": "SkipLayerNormalization"}
    assert name not in report.components
    assert gone.get(name, "EmbedLayerNormalization") not in ops(result)
    assert difference(ENCODER, result, PADDED) < 1e-5


def test_all_off_is_as_good_as_no_pass(tmp_path: Path) -> None:
    result, report = apply(ENCODER, tmp_path, *OrtTransformers().components())
    assert report.components == ()
    assert result == ENCODER


def test_what_is_not_reported_makes_no_difference(tmp_path: Path) -> None:
    result, report = apply(ENCODER, tmp_path / "on")
    others = OrtTransformers().components().difference(report.components)
    assert apply(ENCODER, tmp_path / "off", *others) == (result, report)


@pytest.mark.parametrize("build", [models.resnet, models.detector])
@pytest.mark.parametrize("given", ["auto", "bert", "gpt2"])
def test_what_is_no_transformer_is_left_alone(
    build: Callable[[], onnx.ModelProto], given: Any, tmp_path: Path
) -> None:
    source = build()
    result, report = apply(source, tmp_path, step=OrtTransformers(model_type=given))
    assert result == source
    assert report.components == ()
    assert report.notes[0].startswith("left as it was: ")
    if given != "auto":
        assert f"model type {given} was given, but this does not look like a transformer" in report.notes[0]


def test_a_type_that_does_not_fit_is_told(tmp_path: Path) -> None:
    _, report = apply(ENCODER, tmp_path, step=OrtTransformers(model_type="gpt2"))
    assert "model type gpt2 was given, but this looks like bert: " in report.notes[0]


def test_counted_masks_are_right_for_padding_on_the_right_only(tmp_path: Path) -> None:
    result, report = apply(ENCODER, tmp_path, step=OrtTransformers(mask="right-padded"))
    assert any("ones followed by zeros" in note for note in report.notes)
    assert difference(ENCODER, result, PADDED) < 1e-5
    assert difference(ENCODER, result, HOLES) > 0.1


@dataclass(frozen=True)
class WrongScale(OrtTransformers):
    """Gives every attention another scale, as a tool of tomorrow might."""

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        self.components()
        cls: Any = importlib.import_module("fusion_attention").FusionAttention
        make: Callable[..., Any] = cls.create_attention_node

        def wrong(*args: Any, **options: Any) -> Any:
            return make(*args, **{**options, "scale": 0.9})

        with _peers.replaced((cls, "create_attention_node", wrong)):
            return super().transform_file(source, target, disabled)


def test_a_wrong_fusion_is_named(tmp_path: Path) -> None:
    diagnosis = graphopt.diagnose(ENCODER, [WrongScale()], repro=tmp_path / "repro")
    (culprit,) = diagnosis.culprits
    assert [str(member) for member in culprit.members] == ["ort-transformers/attention"]
    assert culprit.confirmed
    assert culprit.evidence.float64 == "algebra"
    assert (tmp_path / "repro" / "repro.py").is_file()


@pytest.mark.parametrize(
    "fault", [f for f in real_faults.FAULTS if f.tool == "ort-transformers"], ids=lambda f: f.name
)
def test_real_faults_are_named(fault: real_faults.RealFault) -> None:
    diagnosis = graphopt.diagnose(fault.build(), [OrtTransformers(model_type="bert")])
    (culprit,) = diagnosis.culprits
    assert [[str(member) for member in culprit.members]] == [
        [f"ort-transformers/{name}" for name in names] for names in fault.culprits
    ]
    assert culprit.confirmed


def test_weights_in_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_peers, "INSIDE_LIMIT", 1)
    apply(ENCODER, tmp_path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "in" / "w.bin").unlink()
    assert difference(ENCODER, onnx.load(tmp_path / "out" / "result.onnx"), PADDED) < 1e-5


@pytest.mark.parametrize(("heads", "width"), [(-1, 8), (0, 8), (3, 8)])
def test_sizes_that_cannot_be(heads: int, width: int, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"cannot split hidden-size {width} among num-heads {heads}"):
        apply(ENCODER, tmp_path, step=OrtTransformers(num_heads=heads, hidden_size=width))


def test_unknown_component(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no component 'atention': did you mean 'attention'"):
        apply(ENCODER, tmp_path, "atention")


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        assert name == "sympy"

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(MissingExtra, match=r"needs sympy: pip install 'graphopt\[transformers\]'"):
        OrtTransformers().components()


def test_components_in_a_fresh_process() -> None:
    code = "from graphopt_passes.ort_transformers import *; print(*sorted(OrtTransformers().components()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == sorted(OrtTransformers().components())
    assert {"attention", "layer_norm", "rotary_embeddings", "constant_fold", "postprocess"} < {
        *found.stdout.split()
    }


def test_the_tool_is_left_as_found(tmp_path: Path) -> None:
    OrtTransformers().components()
    base: Any = importlib.import_module("fusion_base").Fusion
    utilities: Any = importlib.import_module("fusion_utils").FusionUtils

    def state() -> list[Any]:
        return [vars(base)["apply"], *(vars(utilities)[n] for n in vars(utilities) if n.startswith("remove"))]

    before = state()
    apply(ENCODER, tmp_path)
    assert state() == before


_SELF = "n = LayerNormalization<axis=-1>(x, g) s = MatMul(n, n) p = Softmax(s) y = MatMul(p, n)"
_CAUSAL = "t = Trilu(x, k) s = MatMul(n, n) m = Add(s, t) p = Softmax(m) y = MatMul(p, n)"
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("(float[4,4] x)", _SELF, {}),
    "vit": (
        "(float[1,3,8,8] i)",
        f"x = Conv<strides=[4, 4]>(i, w) {_SELF}",
        {"w": np.ones((4, 3, 4, 4), np.float32)},
    ),
    "swin": (
        "(float[1,3,8,8] i)",
        f"c = Conv<strides=[4, 4]>(i, w) x = Reshape(c, windows) {_SELF}",
        {"w": np.ones((4, 3, 4, 4), np.float32), "windows": np.ones(6, np.int64)},
    ),
    "conformer": (
        "(float[1,4,4] i)",
        f"x = Conv<group=4, pads=[1, 1]>(i, w) {_SELF}",
        {"w": np.ones((4, 1, 3), np.float32)},
    ),
    "gpt2": ("(float[4,4] x, int64 k)", f"n = LayerNormalization<axis=-1>(x, g) {_CAUSAL}", {}),
    "bart": (
        "(float[4,4] x, float[4,4] encoder_hidden_states, int64 k)",
        f"n = LayerNormalization<axis=-1>(x, g) {_CAUSAL}",
        {},
    ),
    "clip": (
        "(float[4,4] i, int64 k)",
        "a = Mul(i, f) b = Sigmoid(a) x = Mul(i, b) n = LayerNormalization<axis=-1>(x, g) " + _CAUSAL,
        {"f": np.array(1.702, np.float32)},
    ),
    "t5": (
        "(float[4,4] x)",
        "q = Pow(x, two) v = ReduceMean<axes=[-1]>(q) a = Add(v, little) r = Sqrt(a) n = Div(x, r)"
        " s = MatMul(n, n) p = Softmax(s) y = MatMul(p, n)",
        {"two": np.array(2, np.float32), "little": np.array(1e-6, np.float32)},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str) -> None:
    ports, body, weights = KINDS[kind]
    text = f'<ir_version: 8, opset_import: ["": 17]> g {ports} => (float y) {{ {body} }}'
    assert detect(support.proto(text, g=np.ones(4, np.float32), **weights)).model_type == kind


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("y = Softmax(x)", "it has no attention"),
        ("s = MatMul(x, x) p = Softmax(s) y = MatMul(p, x)", "1 x attention, no layer norm"),
    ],
)
def test_what_fits_nothing(body: str, why: str) -> None:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[4,4] x) => (float[4,4] y) {{ {body} }}'
    found = detect(onnx.parser.parse_model(text))
    assert found.model_type is None
    assert found.why.startswith(why)
