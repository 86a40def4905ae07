"""Export of modules: by both exporters, checked against the module, which is left as it was."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt.errors import BadInput, MissingExtra
from graphopt.exported import ExportDiffers
from graphopt.numerics.options import CheckOptions

pytestmark = [pytest.mark.yolo, pytest.mark.filterwarnings("ignore")]
torch: Any = pytest.importorskip("torch")
nn: Any = torch.nn
EXPORTERS = ["dynamo", "torchscript"]
FEW = CheckOptions(samples=3)


class Block(nn.Module):
    """A residual block of a ResNet, with live normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.drop(self.norm(self.conv(x))))


class Cached(nn.Module):
    """One layer of attention with a cache of keys and values, which it gives back."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.qkv = nn.Linear(8, 24)

    def forward(self, ids: Any, past: Any, *, scale: float = 1.0) -> Any:
        q, k, v = self.qkv(self.embed(ids)).chunk(3, -1)
        k, v = torch.cat([past["k"], k], 1), torch.cat([past["v"], v], 1)
        weights = (scale * q @ k.transpose(1, 2)).softmax(-1)
        return {"out": weights @ v, "past": {"k": k, "v": v}}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 1)

    def forward(self, ids: Any, mask: Any) -> Any:
        return self.layers(self.embed(ids), src_key_padding_mask=mask == 0)


class Restless(nn.Module):
    """Counts its calls, in a buffer, in a new one, in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(()))
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.count.add_(1)
        self.calls += 1
        return self.linear(x) + torch.rand(()) * 0


class Branch(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if x.sum() > 0 else x - 1


class Frozen(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + float(x.shape[0])


class Same(nn.Module):
    """Takes what it does not need, and gives back what it took."""

    def forward(self, x: Any, unused: Any, flag: bool = False, *, y: Any = None) -> Any:
        return (x - y if flag else x + y), x


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_live_normalization_is_left_in_training(tmp_path: Path, exporter: Any) -> None:
    module = nn.Sequential(Block(), Block().eval(), nn.Flatten(2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [part.training for part in module.modules()]
    images = torch.randn(2, 3, 8, 8)
    state = torch.random.get_rng_state()
    done = graphopt.export_torch(
        module,
        images,
        tmp_path / "m.onnx",
        exporter=exporter,
        dynamic_shapes={"input": {0: "batch"}},
        check=FEW,
    )
    assert [part.training for part in module.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert done.report is not None
    assert done.report.verdict in ("identical", "rounding")
    assert done.report.feeds.sets == 4
    assert done.origin == f"Sequential by {exporter}"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    (port,) = graphopt.Model.load(done.path).interface().inputs
    assert port.shape == ("batch", 3, 8, 8)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_nested_arguments_and_keywords(tmp_path: Path, exporter: Any) -> None:
    past = {"k": torch.randn(2, 3, 8), "v": torch.randn(2, 3, 8)}
    grows = {0: "batch", 1: "past"}
    done = graphopt.export_torch(
        Cached(),
        torch.randint(0, 11, (2, 4)),
        tmp_path / "m.onnx",
        kwargs={"scale": 0.5, "past": past},
        dynamic_shapes={"ids": {0: "batch", 1: "seq"}, "past": {"k": grows, "v": grows}},
        exporter=exporter,
        check=FEW,
    )
    assert done.report is not None
    assert done.report.verdict == "rounding"
    assert len(done.report.check.outputs) == 3
    names = [port.name for port in graphopt.Model.load(done.path).interface().inputs]
    assert names == ["ids", "past_k", "past_v"]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_encoder_is_compared_with_its_layers(tmp_path: Path, exporter: Any) -> None:
    args = (torch.randint(0, 11, (2, 5)), torch.ones(2, 5, dtype=torch.long))
    shapes = [{0: "batch", 1: "seq"}] * 2
    done = graphopt.export_torch(
        Encoder(), args, tmp_path / "m.onnx", dynamic_shapes=shapes, exporter=exporter, check=FEW
    )
    assert done.report is not None
    assert done.report.verdict == "rounding"
    assert any("fused kernels" in warning for warning in done.warnings)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_nets(tmp_path: Path, kind: str) -> None:
    module = getattr(nn, kind)(4, 6, batch_first=True, bidirectional=True)
    done = graphopt.export_torch(
        module, torch.randn(1, 5, 4), tmp_path / "m.onnx", exporter="torchscript", check=FEW
    )
    assert done.report is not None
    assert done.report.verdict in ("identical", "rounding")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_state_is_given_back(exporter: Any, capfd: pytest.CaptureFixture[str]) -> None:
    module = Restless()
    done = graphopt.export_torch(module, torch.randn(2, 4), exporter=exporter, check=False)
    assert done.path.name == "Restless.onnx"
    assert done.report is None
    assert (module.count.item(), module.calls) == (0, 0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_one_tensor_given_twice_is_two_inputs(tmp_path: Path, exporter: Any) -> None:
    x = torch.randn(2, 3)
    done = graphopt.export_torch(
        Same(), (x, x, True), tmp_path / "m.onnx", kwargs={"y": x}, exporter=exporter, check=FEW
    )
    assert done.report is not None
    assert done.report.verdict == "identical"


def test_a_frozen_branch_is_found(tmp_path: Path) -> None:
    with pytest.raises(ExportDiffers, match=r"not what torch:Branch computes.*check=False writes it"):
        graphopt.export_torch(Branch(), torch.ones(3), tmp_path / "m.onnx", exporter="torchscript")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadInput, match="Branch does not export by dynamo: Could not guard on data-dep"):
        graphopt.export_torch(Branch(), torch.ones(3), tmp_path / "m.onnx")
    done = graphopt.export_torch(
        Branch(), torch.ones(3), tmp_path / "m.onnx", exporter="torchscript", check=False
    )
    assert any("Python boolean" in warning for warning in done.warnings)
    with pytest.raises(graphopt.CheckFailed, match="The source differs from its reference"):
        graphopt.run(done, "exact")


def test_a_frozen_size_is_found(tmp_path: Path) -> None:
    shapes = {"x": {0: "batch"}}
    with pytest.raises(ExportDiffers, match="batch="):
        graphopt.export_torch(
            Frozen(), torch.ones(2, 3), tmp_path / "m.onnx", dynamic_shapes=shapes, exporter="torchscript"
        )
    done = graphopt.export_torch(Frozen(), torch.ones(2, 3), tmp_path / "m.onnx", dynamic_shapes=shapes)
    assert done.report is not None
    assert done.report.verdict == "identical"


def test_names_and_opset(tmp_path: Path) -> None:
    done = graphopt.export_torch(
        nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "m.onnx",
        input_names=["a"], output_names=["b"], opset=17, exporter="torchscript", check=FEW,
    )  # fmt: skip
    model = graphopt.Model.load(done.path)
    assert model.ir.opset_imports[""] == 17
    interface = model.interface()
    assert [port.name for port in (*interface.inputs, *interface.outputs)] == ["a", "b"]


def test_half_is_run_as_it_is(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.GELU()).half()
    done = graphopt.export_torch(
        module, torch.randn(2, 8).half(), tmp_path / "m.onnx", exporter="torchscript", check=FEW
    )
    assert done.report is not None
    assert done.report.verdict in ("identical", "rounding", "within tolerance")
    assert next(module.parameters()).dtype is torch.float16


def test_a_module_that_has_changed_says_nothing(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    done = graphopt.export_torch(module, torch.ones(1, 3), exporter="torchscript", check=FEW)
    assert graphopt.run(done, "exact", samples=2).ok
    assert graphopt.run(done, "exact", samples=2, reference=done.reference).ok
    with torch.no_grad():
        module.weight.mul_(2)
    with pytest.raises(BadInput, match="Linear has changed since it was exported"):
        graphopt.run(done, "exact", samples=2, reference=done.reference)


def test_weights_beyond_a_message_lie_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The limit is 2 GB; a smaller one shows the same.
    monkeypatch.setattr("graphopt.model.PROTO_LIMIT", 1000)
    monkeypatch.setattr("graphopt.exporting.module.PROTO_LIMIT", 1000)
    done = graphopt.export_torch(nn.Linear(32, 32), torch.ones(1, 32), tmp_path / "m.onnx", check=FEW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert graphopt.run(done, "exact", samples=2).ok


@pytest.mark.parametrize(
    ("args", "options", "says"),
    [
        ((torch.ones(1, 3), 3), {}, "Linear cannot be called with these arguments: too many"),
        ((), {}, "Linear cannot be called with these arguments: missing"),
        ((3,), {}, "needs a tensor among its arguments"),
        ((torch.ones(1, 3),), {"dynamic_shapes": {"inputs": {0: "b"}}}, "no argument, did you mean 'input'"),
        ((torch.ones(1, 3),), {"dynamic_shapes": [None, None]}, "dynamic_shapes for 2 arguments"),
        ((torch.ones(1, 3),), {"exporter": "jit"}, "There is no exporter 'jit'"),
        ((torch.ones(1, 4),), {}, "Linear does not export by dynamo"),
        ((torch.ones(1, 3),), {"path": "nowhere/m.onnx"}, "the folder nowhere does not exist"),
    ],
)
def test_what_does_not_export_is_one_sentence(args: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        graphopt.export_torch(nn.Linear(3, 2), args, **options)
    assert "\n" not in str(caught.value)


def test_the_exporter_may_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec

    def without(name: str) -> Any:
        return None if name == "onnxscript" else find(name)

    monkeypatch.setattr("importlib.util.find_spec", without)
    with pytest.raises(MissingExtra, match=r"needs onnxscript: pip install onnxscript"):
        graphopt.export_torch(nn.Linear(3, 2), torch.ones(1, 3))


def test_what_cpp_prints_is_kept_from_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    class Eigen(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.linalg.eigvals(x).real

    with pytest.raises(BadInput, match=r"aten::linalg_eigvals.*not supported"):
        graphopt.export_torch(Eigen(), torch.ones(3, 3), exporter="torchscript")
    sys.stdout.flush()
    assert capfd.readouterr() == ("", "")
