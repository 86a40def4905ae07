"""What holds for models of many GB, on small ones: weights stay in their files, and are copied but once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import Numerics, OpaquePass, ToolReport, copies
from graphopt.copies import kept_copies
from graphopt.errors import BadInput
from graphopt.mapped import MappedTensor
from graphopt.model import Model

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n, 64] x) => (float[n, 64] y) {
        a = MatMul (x, w)  b = Identity (a)  c = Add (b, bias)  d = MatMul (c, v)  y = Relu (d)
    }"""


def source(path: Path) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(TEXT)
    for name, shape in (("w", (64, 64)), ("v", (64, 64)), ("bias", (64,))):
        array = rng.standard_normal(shape).astype(np.float32) / 8
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return onnx.load(path)


def arrays(path: Path) -> dict[str, Any]:
    # onnx would refuse files that have several names.
    found = Model.load(path).ir.graph.initializers.items()
    return {name: value.const_value.numpy() for name, value in found if value.const_value is not None}


def places(path: Path) -> dict[str, dict[str, str]]:
    proto = onnx.load(path, load_external_data=False)
    return {t.name: {e.key: e.value for e in t.external_data} for t in proto.graph.initializer}


def test_scratch_files_share_one_copy_and_the_source_keeps_one_name(tmp_path: Path) -> None:
    source(tmp_path / "m.onnx")
    model = Model.load(tmp_path / "m.onnx")
    written = [tmp_path / name / "m.onnx" for name in ("first", "second")]
    with kept_copies():
        for path in written:
            path.parent.mkdir()
            model.write(path, linked=True)
        inodes = {path.with_name("m.onnx.0").stat().st_ino for path in written}
        assert len(inodes) == 1
        assert (tmp_path / "weights.bin").stat().st_nlink == 1
        again = Model.load(written[0])
        shown = again.ir.graph.initializers["w"].const_value
        assert isinstance(shown, MappedTensor)
        assert shown.file.path == tmp_path / "weights.bin"
    for path in written:
        np.testing.assert_array_equal(arrays(path)["w"], arrays(tmp_path / "m.onnx")["w"])


def test_a_copy_that_somebody_wrote_into_is_used_no_more(tmp_path: Path) -> None:
    source(tmp_path / "m.onnx")
    model = Model.load(tmp_path / "m.onnx")
    with kept_copies():
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            model.write(tmp_path / name / "m.onnx", linked=True)
            with (tmp_path / name / "m.onnx.0").open("r+b") as stream:
                stream.write(b"\1" * 100)
            os.utime(tmp_path / name / "m.onnx.0", ns=(1, 1))
    assert Model.load(tmp_path / "m.onnx").digest() == model.digest()
    model.write(tmp_path / "third.onnx", linked=True)
    np.testing.assert_array_equal(arrays(tmp_path / "third.onnx")["w"], arrays(tmp_path / "m.onnx")["w"])


@pytest.mark.parametrize("pipeline", ["portable", "default"])
def test_unchanged_weights_come_out_as_they_were(tmp_path: Path, pipeline: str) -> None:
    source(tmp_path / "m.onnx")
    before = arrays(tmp_path / "m.onnx")
    result = graphopt.run(tmp_path / "m.onnx", pipeline, cache=False)
    result.save(tmp_path / "out.onnx")
    assert result.ok
    assert result.record.passes
    after = arrays(tmp_path / "out.onnx")
    same = [name for name in before if name in after and np.array_equal(before[name], after[name])]
    assert len(same) >= 2
    found = {place["location"] for place in places(tmp_path / "out.onnx").values() if place}
    assert found == {"out.onnx.data"}
    assert copies._users == 0  # pyright: ignore[reportPrivateUsage]


def test_a_file_with_two_names_is_a_source_like_any_other(tmp_path: Path) -> None:
    source(tmp_path / "m.onnx")
    os.link(tmp_path / "weights.bin", tmp_path / "again.bin")
    result = graphopt.run(tmp_path / "m.onnx", "exact")
    assert result.ok
    result.save(tmp_path / "out.onnx")
    np.testing.assert_array_equal(arrays(tmp_path / "out.onnx")["v"], arrays(tmp_path / "m.onnx")["v"])


def test_weights_that_share_their_bytes_go_on_sharing_them(tmp_path: Path) -> None:
    proto = source(tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    first, second = (t for t in proto.graph.initializer if t.name in ("w", "v"))
    del second.external_data[:]
    second.external_data.extend(first.external_data)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    Model.load(tmp_path / "m.onnx").save(tmp_path / "out.onnx")
    found = places(tmp_path / "out.onnx")
    assert found["w"] == found["v"]
    np.testing.assert_array_equal(arrays(tmp_path / "out.onnx")["v"], arrays(tmp_path / "m.onnx")["w"])


def test_packed_numbers_outside_are_read_and_written(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["w", "scale"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [
            helper.make_tensor("w", TensorProto.INT4, [3], b"\x71\x0f", raw=True),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="d.bin", size_threshold=0)
    loaded = Model.load(tmp_path / "m.onnx")
    tensor = loaded.ir.graph.initializers["w"].const_value
    assert isinstance(tensor, MappedTensor)
    assert tensor.numpy().astype(int).tolist() == [1, 7, -1]
    loaded.save(tmp_path / "out.onnx")
    assert arrays(tmp_path / "out.onnx")["w"].astype(int).tolist() == [1, 7, -1]


class Halve(OpaquePass):
    """Writes its result over several files, with an outside weight that it made."""

    name = "halve"
    numerics = Numerics.EXACT
    isolated = False

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            if tensor.name == "bias":
                tensor.raw_data = (numpy_helper.to_array(tensor) * 1).tobytes()
        onnx.save(model, target, save_as_external_data=True, location="new.bin", size_threshold=0)
        return ToolReport()


@pytest.mark.parametrize("outside", [True, False])
def test_what_a_tool_writes_outside_follows_the_source(tmp_path: Path, outside: bool) -> None:
    model = source(tmp_path / "m.onnx")
    if not outside:
        onnx.save(model, tmp_path / "m.onnx")
    result = graphopt.run(tmp_path / "m.onnx", [Halve()], check="off")
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists() is outside
    for name, array in arrays(tmp_path / "m.onnx").items():
        np.testing.assert_array_equal(arrays(tmp_path / "out.onnx")[name], array)


def _full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source(tmp_path / "m.onnx")
    Model.load(tmp_path / "m.onnx").save(tmp_path / "out.onnx")
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "copy_file_range", _full)
    with pytest.raises(BadInput, match=r"Cannot write .*out\.onnx: No space left on device"):
        Model.load(tmp_path / "m.onnx").save(tmp_path / "out.onnx")
    with pytest.raises(BadInput, match="set TMPDIR"):
        graphopt.run(tmp_path / "m.onnx", "exact")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_where_the_kernel_does_not_copy_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    source(tmp_path / "m.onnx")
    monkeypatch.setattr(os, "copy_file_range", refuse)
    Model.load(tmp_path / "m.onnx").save(tmp_path / "out.onnx")
    np.testing.assert_array_equal(arrays(tmp_path / "out.onnx")["v"], arrays(tmp_path / "m.onnx")["v"])


@pytest.mark.parametrize("renames", [0, 1])
def test_an_interrupted_rename_leaves_no_model_with_others_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    source(tmp_path / "m.onnx")
    Model.load(tmp_path / "m.onnx").save(tmp_path / "out.onnx")
    other = onnx.load(tmp_path / "m.onnx")
    for tensor in other.graph.initializer:
        tensor.raw_data = bytes(len(tensor.raw_data))
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / "m.onnx"
    onnx.save(other, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = arrays(tmp_path / "out.onnx")["w"]
    done: list[object] = []
    replace = os.replace

    def interrupted(*names: Any) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(replace(*names))

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Model.load(path).save(tmp_path / "out.onnx")
    if (tmp_path / "out.onnx").exists():
        np.testing.assert_array_equal(arrays(tmp_path / "out.onnx")["w"], before)


_LIMITED = """
import resource, sys
import graphopt, onnx, onnxruntime, onnx_ir
from graphopt.numerics import check
status = open("/proc/self/status").read()
held = int(status.split("VmData:")[1].split()[0]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (held + (200 << 20), resource.RLIM_INFINITY))
result = graphopt.run(sys.argv[1], "exact", check="off")
assert any(entry.rewrites for entry in result.record.passes)
result.save(sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA of Linux")
def test_a_model_larger_than_the_memory_that_it_may_use(tmp_path: Path) -> None:
    model, side, offset = onnx.parser.parse_model(TEXT.replace("64", "8192")), 8192, 0
    for name, shape in (("w", (side, side)), ("v", (side, side)), ("bias", (side,))):
        tensor = model.graph.initializer.add(name=name, dims=shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        size = 4 * int(np.prod(shape))
        for key, value in (("location", "weights.bin"), ("offset", offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        offset += size
    with (tmp_path / "weights.bin").open("wb") as stream:
        stream.truncate(offset)
        stream.seek(offset - 4)
        stream.write(b"\1\1\1\1")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    command = [sys.executable, "-c", _LIMITED, str(tmp_path / "m.onnx"), str(tmp_path / "out.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out.onnx.data").stat().st_size >= offset
