from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.errors import BadInput
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.numerics.feeding.userdata import load_inputs

IMAGE = ValueSpec.parse("images", "tensor(float)", ("N", 3))
IDS = ValueSpec.parse("in/ids:0", "tensor(int64)", ("N",))
SPECS = [IMAGE, IDS]
ARRAYS: dict[str, Any] = {"images": np.ones((2, 3), np.float32), "in/ids:0": np.array([4, 5])}


def save(path: Path, **changes: Any) -> Path:
    arrays = {name: array for name, array in {**ARRAYS, **changes}.items() if array is not None}
    np.savez(path, **arrays)
    return path


def test_npz(tmp_path: Path) -> None:
    (feed,) = load_inputs([save(tmp_path / "a.npz")], SPECS)
    assert (feed.name, feed.distribution, feed.dims) == ("a.npz", "data", {"N": 2})
    assert feed.arrays["in/ids:0"].tolist() == [4, 5]


def test_a_pattern_and_a_folder_of_npz(tmp_path: Path) -> None:
    for name in ("b", "a"):
        save(tmp_path / f"{name}.npz")
    for given in (str(tmp_path / "*.npz"), tmp_path):
        assert [feed.name for feed in load_inputs([given], SPECS)] == ["a.npz", "b.npz"]


def test_a_folder_of_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", ARRAYS["images"])
    np.save(tmp_path / "in_ids_0.npy", ARRAYS["in/ids:0"])
    (feed,) = load_inputs([tmp_path], SPECS)
    assert feed.arrays["in/ids:0"].tolist() == [4, 5]


def test_a_lone_array_for_a_lone_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ARRAYS["images"])
    np.save(tmp_path / "b.npy", ARRAYS["images"])
    feeds = load_inputs([tmp_path / "a.npz", tmp_path / "b.npy"], [IMAGE])
    assert [list(feed.arrays) for feed in feeds] == [["images"], ["images"]]


@pytest.mark.parametrize("nested", [True, False])
def test_an_onnx_test_data_set(tmp_path: Path, nested: bool) -> None:
    folder = tmp_path / "test_data_set_0" if nested else tmp_path
    folder.mkdir(exist_ok=True)
    for index, array in enumerate(ARRAYS.values()):
        content = numpy_helper.from_array(array).SerializeToString()
        (folder / f"input_{index}.pb").write_bytes(content)
    (feed,) = load_inputs([tmp_path], SPECS)
    assert feed.arrays["images"].shape == (2, 3)


def test_a_sequence_and_an_optional_in_a_test_data_set(tmp_path: Path) -> None:
    specs = [
        ValueSpec.parse("s", "seq(tensor(float))", None),
        ValueSpec.parse("o", "optional(tensor(float))", (2,)),
    ]
    sequence = numpy_helper.from_list([np.ones(2, np.float32), np.ones(3, np.float32)])
    (tmp_path / "input_0.pb").write_bytes(sequence.SerializeToString())
    optional = numpy_helper.from_optional(np.ones(2, np.float32))
    (tmp_path / "input_1.pb").write_bytes(optional.SerializeToString())
    (feed,) = load_inputs([tmp_path], specs)
    assert [item.shape for item in feed.arrays["s"]] == [(2,), (3,)]
    assert feed.arrays["o"].tolist() == [1, 1]


def test_types_that_numpy_saves_as_bytes(tmp_path: Path) -> None:
    specs = [ValueSpec.parse("x", "tensor(bfloat16)", (2,)), ValueSpec.parse("t", "tensor(string)", (2,))]
    np.savez(tmp_path / "a.npz", x=np.array([1, 2], ml_dtypes.bfloat16), t=np.array(["a", "ü"]))
    (feed,) = load_inputs([tmp_path / "a.npz"], specs)
    assert feed.arrays["x"].dtype == ml_dtypes.bfloat16
    assert feed.arrays["t"].tolist() == ["a", "ü"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "lacks the input images tensor(float) [N,3]"),
        ({"image": np.ones(3)}, "has 'image', which is no input of the model: it takes images"),
        ({"images": np.ones((2, 3))}, "has float64 for the input images tensor(float) [N,3]: convert it"),
        ({"images": np.ones((2, 4), np.float32)}, "has shape [2, 4] for the input images"),
        ({"images": np.ones(3, np.float32)}, "has shape [3] for the input images"),
        ({"in/ids:0": np.array([1, 2, 3])}, "but the dim 'N' is 2 in another input"),
    ],
)
def test_data_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_inputs([save(tmp_path / "a.npz", **changes)], SPECS)
    assert words in str(caught.value)
    assert "a.npz" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"nonsense")
    (tmp_path / "empty").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "input_0.pb").write_bytes(b"\xff\xff nonsense")
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "input_7.pb").write_bytes(onnx.TensorProto().SerializeToString())
    (tmp_path / "cat.jpg").write_bytes(b"")
    (tmp_path / "a.txt").write_bytes(b"")
    for name, words in {
        "a.npz": "as .npz",
        "empty": "nothing to feed",
        "data": "as a value for input images",
        "many": "only 2 inputs",
        "cat.jpg": "Images are one input",
        "a.txt": "give an .npz",
        "missing": "no input data",
    }.items():
        with pytest.raises(BadInput, match=words):
            load_inputs([tmp_path / name], SPECS)
