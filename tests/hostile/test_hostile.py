"""A sample of hostile files, and each that was once not survived. All of it: ``make hostile``."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt import Model
from graphopt.cli import execute
from graphopt.errors import BadInput
from graphopt.record.compare import load_record
from tests.hostile.harness import load_script


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux tells it")
@pytest.mark.parametrize(
    ("first", "count", "checks"), [(0, 200, False), pytest.param(5000, 300, True, marks=pytest.mark.slow)]
)
def test_hostile_files_are_survived(first: int, count: int, checks: bool, tmp_path: Path) -> None:
    campaign = load_script("hostile").Campaign(tmp_path, None, checks)
    try:
        cases = [campaign.run(number) for number in range(first, first + count)]
    finally:
        campaign.close()
    assert [f"{case.number} {case.what}: {case.problem}" for case in cases if case.problem] == []


TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1, 2] x) => (float[1, 2] y) <float[2] w = {1, 2}> { a = Identity(x)  y = Add(a, w) }"""


def damaged(change: Callable[[onnx.TensorProto], object]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    weights = model.graph.initializer[0]
    weights.CopyFrom(onnx.numpy_helper.from_array(np.ones(2, np.float32), "w"))
    change(weights)
    return model


def _dims(*dims: int) -> Callable[[onnx.TensorProto], None]:
    def change(tensor: onnx.TensorProto) -> None:
        tensor.dims[:] = dims

    return change


def _type(number: int) -> Callable[[onnx.TensorProto], None]:
    def change(tensor: onnx.TensorProto) -> None:
        tensor.data_type = number

    return change


def _empty(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_dims(-2), "cannot have the shape"),
        (_dims(*[2] * 70), "cannot have the shape"),
        (_dims(2**40, 2**40), "cannot have the shape"),
        (_dims(3), "holds 8 bytes, and its type and shape need 12"),
        (_type(0), "has no type"),
        (_type(11), "need 16"),
        (_empty, "holds 0 elements"),
    ],
)
def test_a_damaged_tensor_is_named(change: Callable[[onnx.TensorProto], object], says: str) -> None:
    with pytest.raises(BadInput, match=f"'w'.*{says}"):
        Model.from_proto(damaged(change))


@pytest.mark.parametrize("version", [-1, 2**40])
def test_an_opset_that_cannot_be_is_refused(version: int) -> None:
    model = onnx.parser.parse_model(TEXT)
    model.opset_import[0].version = version
    with pytest.raises(BadInput, match="imports version"):
        Model.from_proto(model)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = onnx.parser.parse_model(TEXT)
    model.graph.node[0].name = "unlikely"
    path.write_bytes(model.SerializeToString().replace(b"unlikely", b"unlik\xeely"))
    with pytest.raises(BadInput, match="not valid UTF-8"):
        Model.load(path)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/etc/passwd", "outside the model's folder"),
        ("../secret", "outside the model's folder"),
        ("link", "outside the model's folder"),
        ("loop", "outside the model's folder"),
        ("a\0b", "outside the model's folder"),
        ("", "outside the model's folder"),
        ("pipe", "is no file"),
        (".", "is no file"),
        ("data/more", "is missing"),
        ("a" * 5000, "cannot be read|is missing"),
        ("missing", "is missing"),
        ("data", "has 4 bytes of external data"),
    ],
)
def test_external_data_elsewhere_are_not_read(location: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(8))
    (folder / "data").write_bytes(bytes(4))
    (folder / "link").symlink_to("../secret")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")

    def change(tensor: onnx.TensorProto) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    (folder / "m.onnx").write_bytes(damaged(change).SerializeToString())
    with pytest.raises(BadInput, match=says):
        Model.load(folder / "m.onnx")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "eliminate-noop.nan=" + "[" * 5000],
        ["-p", "fixpoint(" * 5000],
        ["-p", "x" * 9000],
        ["-p", "\x1b[2J"],
    ],
)
def test_hostile_texts_are_one_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(TEXT), path)
    assert execute(["run", str(path), "--check", "off", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("graphopt: ")
    assert len(said) < 1000
    assert "\x1b" not in said
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_a_record_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b'{"schema": "graphopt.record/1", "command": "\xc9\xff"}')
    with pytest.raises(BadInput, match="is not a record"):
        load_record(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'shape': (",
        b"\0" * 40,
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }",
    ],
)
def test_a_damaged_array_is_refused(
    header: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, feed = tmp_path / "m.onnx", tmp_path / "feeds"
    onnx.save(onnx.parser.parse_model(TEXT), path)
    feed.mkdir()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    (feed / "x.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    assert execute(["run", str(path), "-p", "eliminate-identity", "--inputs", str(feed), "-q"]) == 2
    assert "Cannot read" in capsys.readouterr().err
