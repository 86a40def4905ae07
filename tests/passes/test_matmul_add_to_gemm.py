"""A product of matrices and its bias become a Gemm where both are known to be ones."""

from __future__ import annotations

import pytest

from graphopt.testing import assert_declines, assert_rewrites, model
from graphopt_passes.matmul_add_to_gemm import MatmulAddToGemm
from tests.support import ops

STEP = MatmulAddToGemm()
BODY = "a = MatMul(x, w) y = Add(a, b)"


def text(
    ports: str = "float[N,2] x, float[2,3] w, float[3] b", body: str = BODY, outputs: str = "float[N,3] y"
) -> str:
    return f"g ({ports}) => ({outputs}) {{ {body} }}"


@pytest.mark.parametrize("bias", ["3", "1,3", "1", "1,1", "", "N,3", "N,1"])
@pytest.mark.parametrize("body", [BODY, "a = MatMul(x, w) y = Add(b, a)"])
def test_a_bias_that_fits(bias: str, body: str) -> None:
    ports = f"float[N,2] x, float[2,3] w, float[{bias}] b" if bias else "float[N,2] x, float[2,3] w, float b"
    source = model(text(ports, body))
    if not bias:
        source.graph.input[2].type.tensor_type.shape.SetInParent()
    assert ops(assert_rewrites(STEP, source, applied=1)) == ["Gemm"]


@pytest.mark.parametrize("kind", ["double", "float16"])
@pytest.mark.parametrize("opset", [9, 13, 17])
def test_types_and_opsets(kind: str, opset: int) -> None:
    source = model(text().replace("float", kind), opset=opset)
    assert ops(assert_rewrites(STEP, source, applied=1)) == ["Gemm"]


def test_one_of_two_products_takes_the_other_as_its_bias() -> None:
    ports, body = "float[5,2] x, float[2,3] w", "a = MatMul(x, w) b = MatMul(x, w) y = Add(a, b)"
    source = model(text(ports, body, "float[5,3] y"), shapes=True)
    assert ops(assert_rewrites(STEP, source, applied=1)) == ["MatMul", "Gemm"]


def test_a_product_that_is_added_to_itself_is_left() -> None:
    source = model(text("float[N,2] x, float[2,3] w", "a = MatMul(x, w) y = Add(a, a)"), shapes=True)
    assert_declines(STEP, source, "used elsewhere")


@pytest.mark.parametrize(
    ("bias", "outputs"),
    [("5,3", "float[5,3] y"), ("N,3", "float[N,3] y"), ("1,1,3", "float[1,M,3] y"), ("K", "float[M,3] y")],
)
def test_a_bias_that_may_enlarge_the_product(bias: str, outputs: str) -> None:
    ports = f"float[M,2] x, float[2,3] w, float[{bias}] b"
    assert_declines(STEP, text(ports, outputs=outputs), "not known to fit")


def test_a_bias_that_enlarges_one_column() -> None:
    ports = "float[N,2] x, float[2,1] w, float[3] b"
    assert_declines(STEP, text(ports), "not known to fit")


@pytest.mark.parametrize(
    ("ports", "outputs", "reason"),
    [
        ("float[N,4,2] x, float[2,3] w, float[3] b", "float[N,4,3] y", "no matrix"),
        ("float[2] x, float[2,3] w, float[3] b", "float[3] y", "no matrix"),
        ("int32[N,2] x, int32[2,3] w, int32[3] b", "int32[N,3] y", "one that a Gemm takes"),
    ],
)
def test_what_is_not_known_to_be_a_gemm(ports: str, outputs: str, reason: str) -> None:
    assert_declines(STEP, text(ports, outputs=outputs), reason)


def test_an_unknown_rank() -> None:
    ports = "float[N,2] x, float[2,3] w, float[3] b, int64[K] s"
    source = text(ports, "r = Reshape(x, s) a = MatMul(r, w) y = Add(a, b)", "float[M,3] y")
    assert_declines(STEP, source, "the rank of an operand is unknown")


def test_a_product_that_is_read_elsewhere() -> None:
    assert_declines(STEP, text(outputs="float[N,3] y, float[N,3] a"), "used elsewhere")


def test_the_opset_is_not_raised() -> None:
    assert_declines(STEP, model(text(), opset=6), "the opset is below 7")
