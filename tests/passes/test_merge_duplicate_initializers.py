"""Equal weights become one; a difference in any bit, wherever it lies, keeps them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.testing import assert_example
from graphopt_passes import merge_duplicate_initializers as module
from graphopt_passes.merge_duplicate_initializers import MergeDuplicateInitializers
from tests.support import apply, proto

RNG = np.random.default_rng(0)
BIG = RNG.standard_normal((64, 600)).astype(np.float32)


def net(*weights: np.ndarray[Any, Any], head: str = "") -> onnx.ModelProto:
    names = [f"w{index}" for index in range(len(weights))]
    steps = " ".join(f"y{index} = Identity({name})" for index, name in enumerate(names))
    ports = ", ".join(f"float[A{index},B{index}] y{index}" for index in range(len(weights)))
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[1] x{head}) => ({ports}) {{ {steps} }}'
    found = proto(text, **dict(zip(names, weights, strict=True)))
    for port, weight in zip(found.graph.output, weights, strict=True):
        port.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(weight.dtype)
    return found


def merged(*weights: np.ndarray[Any, Any], **options: Any) -> int:
    after, done = apply(MergeDuplicateInitializers(**options), net(*weights))
    assert len(after.graph.initializers) == len(weights) - len(done.changes)
    return len(done.changes)


def changed(index: int, value: float) -> np.ndarray[Any, Any]:
    other = BIG.copy()
    other.reshape(-1)[index] = value
    return other


def test_equal_ones_become_one() -> None:
    assert merged(BIG, BIG.copy(), BIG.copy()) == 2


@pytest.mark.parametrize("index", [0, 100, 9_999, 19_200, 38_399])
def test_one_number_keeps_them_apart(index: int) -> None:
    """Also where a sample does not look."""
    assert merged(BIG, changed(index, 7.0)) == 0
    assert merged(BIG, changed(index, 7.0), BIG.copy(), changed(index, 7.0)) == 2


def test_bits_count() -> None:
    assert merged(changed(500, 0.0), changed(500, -0.0)) == 0
    nans = changed(500, np.nan), changed(500, np.nan)
    assert merged(*nans) == 1
    nans[1].view(np.uint32).reshape(-1)[500] ^= 1
    assert merged(*nans) == 0


def test_type_and_shape_count() -> None:
    assert merged(BIG, BIG.reshape(600, 64), BIG.view(np.int32)) == 0


def test_small_and_large_ones_are_left() -> None:
    row = BIG[:1, :10].copy()
    assert merged(row, row.copy()) == 0
    assert merged(row, row.copy(), least_bytes=1) == 1
    assert merged(BIG, BIG.copy(), most_mb=0.1) == 0


def test_one_that_can_be_overridden_stays() -> None:
    source = net(BIG, BIG.copy(), head=", float[64,600] w1")
    _, done = apply(MergeDuplicateInitializers(), source)
    assert not done.changes


def test_weights_of_one_shape_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    equal = module._is_equal  # pyright: ignore[reportPrivateUsage]

    def watched(a: Any, b: Any) -> bool:
        compared.append(a.name)
        return equal(a, b)

    monkeypatch.setattr(module, "_is_equal", watched)
    assert merged(*(RNG.standard_normal((64, 600)).astype(np.float32) for _ in range(20))) == 0
    assert not compared


def test_its_own_example() -> None:
    assert_example(MergeDuplicateInitializers)
