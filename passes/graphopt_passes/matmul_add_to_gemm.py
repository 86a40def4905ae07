"""Fuse a matrix product and the bias after it into a Gemm."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class Product:
    """A MatMul of two matrices and what is added to it.

    Attributes:
        matmul: The MatMul.
        bias: What is added.
    """

    matmul: ir.Node
    bias: ir.Value


@dataclass(frozen=True)
class MatmulAddToGemm(RewritePass[Product]):
    """Replace ``Add(MatMul(a, b), bias)`` of matrices by ``Gemm(a, b, bias)``.

    Example:
        g (float[N, 2] x) => (float[N, 3] y)
        <float[2, 3] w = {1, 2, 3, 4, 5, 6}, float[3] bias = {1, 0, 1}> {
            a = MatMul (x, w)
            y = Add (a, bias)
        }

    Why it pays:
        The sum starts from the bias in place of a pass over the result. ONNX Runtime does the same at every
        level above none; other runtimes may not.

    When it does not apply:
        An operand is not known to be a matrix (a stack of matrices has no Gemm); the product is read
        elsewhere; the bias may enlarge the product, or is not known not to; a type other than float, double
        and float16.

    Numerics:
        Reassociates: the bias is added at another place of the sum.

    Source:
        MatMulAddFusion of ONNX Runtime.
    """

    name = "matmul-add-to-gemm"
    roots = ("Add",)
    numerics = Numerics.REASSOCIATES
    min_opset = 7  # below, a Gemm broadcasts only where an attribute says so

    def match(self, node: ir.Node) -> Product | Declined | None:
        declined = None
        for product, bias in (node.inputs, reversed(node.inputs)):
            matmul = None if product is None else product.producer()
            if product is None or bias is None or matmul is None or not facts.is_op(matmul, "MatMul"):
                continue
            declined = _obstacle(node, matmul, bias)
            if declined is None:
                return Product(matmul, bias)
        return declined

    def rewrite(self, match: Product, rw: Rewriter) -> None:
        assert rw.root is not None
        result = rw.root.outputs[0]
        operands = [*match.matmul.inputs, match.bias]
        rw.replace(result, rw.op("Gemm", operands, role="gemm", like=result, origin=match.matmul))


def _obstacle(add: ir.Node, matmul: ir.Node, bias: ir.Value) -> Declined | None:
    product = matmul.outputs[0]
    ranks = [facts.rank(value) for value in matmul.inputs]
    if ranks != [2, 2]:
        known = None not in ranks
        return Declined("an operand is no matrix" if known else "the rank of an operand is unknown")
    if facts.sole_user(product) is not add:
        return Declined("the product is used elsewhere")
    if matmul.graph is not add.graph:
        return Declined("the product is in an outer graph")
    if facts.dtype(matmul.inputs[0]) not in _FLOATS or facts.dtype(bias) != facts.dtype(matmul.inputs[0]):
        return Declined("the type is not known to be one that a Gemm takes")
    left, right, dims = (facts.shape(value) for value in (*matmul.inputs, bias))
    if left is None or right is None or dims is None or len(dims) > 2:
        return Declined("the bias is not known to fit the product")
    full = (left[0], right[1])[2 - len(dims) :]
    if any(dim != 1 and (dim is None or dim != size) for dim, size in zip(dims, full, strict=True)):
        return Declined("the bias is not known to fit the product")
    return None
