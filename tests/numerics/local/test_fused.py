"""Fused operators in float64 give what ONNX Runtime's kernels give, to the precision of float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper

from graphopt.numerics.local.evaluate import NoDefinition, evaluate, widened

Array = np.ndarray[Any, Any]
MS = "com.microsoft"
LENGTHS = np.array([3, 5], np.int32)
KEEP = (np.arange(5)[None] < LENGTHS[:, None]).astype(np.int32)
IDS = np.array([[1, 2, 3, 0, 4], [5, 6, 0, 2, 2]], np.int32)
SEGMENTS = np.array([[0, 0, 1, 1, 1], [0, 1, 0, 1, 0]], np.int32)


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def run(
    op: str, domain: str, inputs: list[Array | None], attributes: dict[str, Any], count: int = 1
) -> list[tuple[Array, Array]]:
    """The outputs of a node by ONNX Runtime, and by the local check."""
    names = ["" if array is None else f"i{index}" for index, array in enumerate(inputs)]
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    ports = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    made = [f"y{index}" for index in range(count)]
    node = helper.make_node(op, names, made, domain=domain, **attributes)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
    outputs = [helper.make_empty_tensor_value_info(name) for name in made]
    graph = helper.make_graph([node], "g", ports, outputs)
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected: Any = session.run(made, given)
    wide = {name: widened(array) for name, array in given.items()}
    found = evaluate([ir.from_proto(node)], wide, {"": 17, MS: 1})
    return [(want, found[name]) for want, name in zip(expected, made, strict=True)]


X, BIAS = normal(2, 5, 8), normal(24)
ATTENTION = [X, normal(8, 24), BIAS]
QKV = [normal(2, 5, 8), normal(2, 5, 8) * 2, normal(2, 5, 8) - 1]
EMBED = [IDS, SEGMENTS, normal(7, 8), normal(9, 8), normal(2, 8), normal(8), normal(8) + 1]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("QuickGelu", [X], {}),
        ("QuickGelu", [X], {"alpha": 1.0}),
        ("FusedMatMul", [normal(2, 3, 4), normal(2, 4, 6)], {"alpha": 0.25}),
        ("FusedMatMul", [normal(2, 4, 3), normal(2, 6, 4)], {"transA": 1, "transB": 1, "alpha": 2.0}),
        ("FusedMatMul", [normal(5, 2, 3, 4), normal(2, 3, 4, 6)], {"transBatchA": 1}),
        ("FusedMatMul", [normal(2, 3, 5, 4), normal(6, 2, 3, 4)], {"transBatchB": 1, "transB": 1}),
        ("FusedMatMul", [normal(4, 2, 3, 5), normal(2, 3, 4, 6)], {"transBatchA": 1, "transA": 1}),
        ("TransposeMatMul", [normal(2, 4, 3), normal(2, 4, 6)], {"transA": 1}),
        ("Attention", ATTENTION, {"num_heads": 2}),
        ("Attention", ATTENTION, {"num_heads": 4, "scale": 0.3, "unidirectional": 1}),
        ("Attention", [*ATTENTION, KEEP], {"num_heads": 2}),
        ("Attention", [*ATTENTION, LENGTHS], {"num_heads": 2}),
        ("Attention", [*ATTENTION, KEEP], {"num_heads": 2, "mask_filter_value": -3.0}),
        ("Attention", [*ATTENTION, None, None, normal(2, 2, 5, 5)], {"num_heads": 2}),
        (
            "Attention",
            [X, normal(8, 20), normal(20)],
            {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 4]},
        ),
        ("MultiHeadAttention", QKV, {"num_heads": 2}),
        ("MultiHeadAttention", [*QKV, BIAS], {"num_heads": 4, "scale": 0.5}),
        ("MultiHeadAttention", [*QKV, None, KEEP], {"num_heads": 2}),
        ("MultiHeadAttention", [*QKV, None, None, normal(2, 2, 5, 5)], {"num_heads": 2}),
    ],
)
def test_operators_of_the_runtime(op: str, inputs: list[Array | None], attributes: dict[str, Any]) -> None:
    ((expected, actual),) = run(op, MS, inputs, attributes)
    assert actual.shape == expected.shape
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("attributes", [{}, {"axis": -2, "epsilon": 0.1}])
def test_simplified_layer_normalization(attributes: dict[str, Any]) -> None:
    scale = normal(8) if not attributes else normal(5, 8)
    ((expected, actual),) = run("SimplifiedLayerNormalization", "", [X, scale], attributes)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [
        [*EMBED, KEEP],
        EMBED,
        [IDS, None, *EMBED[2:4], None, *EMBED[5:], KEEP],
        [*EMBED, None, np.array([[1, 0, 3, 2, 8], [0, 1, 2, 3, 4]], np.int32)],
    ],
)
def test_embeddings(inputs: list[Array | None]) -> None:
    (found, counts, total) = run("EmbedLayerNormalization", MS, inputs, {"epsilon": 1e-5}, count=3)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(counts[1], counts[0])
    np.testing.assert_allclose(total[1], total[0], rtol=1e-5, atol=1e-5)


HALF = {f: np.asarray(getattr(np, f)(np.outer(np.arange(9), [1.0, 0.3])), np.float32) for f in ("cos", "sin")}
TURNS = list(HALF.values())
PAST = [normal(2, 2, 3, 4), normal(2, 2, 3, 4) + 1]
TOTAL = np.array(8, np.int32)


@pytest.mark.parametrize(
    ("inputs", "attributes", "count"),
    [
        ([*ATTENTION, None, np.stack(PAST)], {"num_heads": 2, "unidirectional": 1}, 2),
        ([*ATTENTION, np.ones((2, 8), np.int32), np.stack(PAST)], {"num_heads": 2}, 2),
        ([*ATTENTION, np.tril(np.ones((2, 5, 5), np.int32))], {"num_heads": 2}, 1),
    ],
)
def test_attention_with_a_past(inputs: list[Array | None], attributes: dict[str, Any], count: int) -> None:
    for expected, actual in run("Attention", MS, inputs, attributes, count=count):
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        ([*QKV, None, None, None, *PAST], {"num_heads": 2}),
        ([*QKV, BIAS, None, normal(1, 2, 5, 8), *PAST], {"num_heads": 2, "unidirectional": 1}),
        ([QKV[0], *PAST], {"num_heads": 2}),
    ],
)
def test_multi_head_attention_with_a_past(inputs: list[Array | None], attributes: dict[str, Any]) -> None:
    for expected, actual in run(
        "MultiHeadAttention", MS, inputs, attributes, count=3 if len(inputs) > 3 else 1
    ):
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


PLACES = np.array([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]], np.int64)


@pytest.mark.parametrize(
    ("x", "places", "attributes"),
    [
        (X, PLACES, {}),
        (X, np.array([3], np.int64), {"interleaved": 1}),
        (normal(2, 2, 5, 4), PLACES, {}),
        (normal(2, 5, 12), PLACES, {"num_heads": 2, "rotary_embedding_dim": 4}),
        (normal(2, 2, 5, 6), PLACES, {"num_heads": 2, "rotary_embedding_dim": 4, "interleaved": 1}),
    ],
)
def test_rotary_embedding(x: Array, places: Array, attributes: dict[str, Any]) -> None:
    ((expected, actual),) = run("RotaryEmbedding", MS, [x, places, *TURNS], attributes)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


# A head of GroupQueryAttention must have a multiple of 8 elements, of 16 to be turned.
GROUPED = [normal(1, 5, 64), normal(1, 5, 32), normal(1, 5, 32) + 1]
STORED = [normal(1, 2, 3, 16), normal(1, 2, 3, 16) + 1]
WIDE_TURNS = [np.concatenate([table, table[::-1]] * 2, axis=1) for table in TURNS]
LAST = np.array([7], np.int32)


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        ([*GROUPED, *STORED, LAST, TOTAL], {}),
        ([*GROUPED, *STORED, LAST, TOTAL], {"scale": 0.2}),
        ([*GROUPED, *STORED, LAST, TOTAL, *WIDE_TURNS], {"do_rotary": 1}),
        ([*GROUPED, *STORED, LAST, TOTAL, *WIDE_TURNS], {"do_rotary": 1, "rotary_interleaved": 1}),
        ([*GROUPED, None, None, LAST - 3, np.array(5, np.int32)], {}),
        ([normal(1, 5, 128), None, None, *STORED, LAST, TOTAL], {}),
    ],
)
def test_group_query_attention(inputs: list[Array | None], attributes: dict[str, Any]) -> None:
    given = {"num_heads": 4, "kv_num_heads": 2, **attributes}
    for expected, actual in run("GroupQueryAttention", MS, inputs, given, count=3):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Attention", ATTENTION, {"num_heads": 2, "do_rotary": 1}),
        (
            "GroupQueryAttention",
            [*GROUPED, *STORED, LAST, TOTAL],
            {"num_heads": 4, "kv_num_heads": 2, "softcap": 5.0},
        ),
        ("GroupQueryAttention", [*GROUPED, *STORED, LAST - 1, TOTAL], {"num_heads": 4, "kv_num_heads": 2}),
        ("RotaryEmbedding", [X, PLACES, *TURNS], {"scale": 2.0}),
    ],
)
def test_what_is_not_defined_is_not_guessed(op: str, inputs: list[Array], attributes: dict[str, Any]) -> None:
    names = [f"i{index}" for index in range(len(inputs))]
    node = helper.make_node(op, names, ["y"], domain=MS, **attributes)
    values = dict(zip(names, map(widened, inputs), strict=True))
    with pytest.raises(NoDefinition, match=f"{op} in this form"):
        evaluate([ir.from_proto(node)], values, {"": 17, MS: 1})


def test_gelu_by_tanh_is_another_function() -> None:
    """So that an approximation is told from rounding: the two differ by 5e-4, float32 rounds by 1e-7."""
    ((_, exact),) = run("Gelu", MS, [X], {})
    ((expected, fast),) = run("FastGelu", MS, [X], {})
    np.testing.assert_allclose(fast, expected, rtol=1e-5, atol=1e-6)
    assert 1e-4 < np.abs(fast - exact).max() < 1e-3
