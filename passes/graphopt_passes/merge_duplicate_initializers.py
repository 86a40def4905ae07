"""Let readers of equal weights read one of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_Key = tuple[ir.DataType, tuple[int, ...], bytes]


@dataclass(frozen=True)
class Equal:
    """An initializer and another one of the same graph that is equal to it."""

    copy: ir.Value
    kept: ir.Value


@dataclass(frozen=True)
class MergeDuplicateInitializers(RewritePass[Equal]):
    """Merge initializers of one graph that are equal bit for bit, in type, shape and content.

    Attributes:
        least_bytes: The smallest initializers that are compared, in bytes. Of smaller ones
            common-subexpression knows without this that they are equal, and no file is larger for them.
        most_mb: The largest initializers that are compared, in megabytes: they have to be read.

    Example:
        merge-duplicate-initializers{least_bytes=1}
        g (float[N, 2] x) => (float[N, 2] y) <float[2] one = {1, 2}, float[2] two = {1, 2}> {
            a = Add (x, one)
            y = Mul (a, two)
        }

    Why it pays:
        Exporters write a constant for each place that reads it, and tied weights twice: the file is
        smaller, and nodes that read them are seen to compute the same.

    When it does not apply:
        Where both are graph outputs; for an initializer that is an input or an output itself, strings, and
        tensors of no element; for those of different graphs.

    Numerics:
        Exact: +0 and -0, and any two NaNs, are different content.

    Source:
        The ONNX specification of initializers, which any number of nodes may read.
    """

    least_bytes: int = 1024
    most_mb: float = 64.0

    name = "merge-duplicate-initializers"
    roots = ("Constant",)  # none of these is touched: it is the initializers that are visited
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> None:
        return None

    def match_initializer(self, value: ir.Value) -> Equal | Declined | None:
        if not self._may_merge(value):
            return None
        graph = value.graph
        assert graph is not None
        known = _FIRST.setdefault(graph, {})
        key = _key(value)
        kept = graph.initializers.get(known.get(key, ""))
        if kept is None or not self._may_merge(kept) or not _is_equal(kept, value):
            known[key] = value.name or ""
            return None
        if kept is value:
            return None
        return facts.replaceable(value, kept) or Equal(value, kept)

    def rewrite(self, match: Equal, rw: Rewriter) -> None:
        rw.replace(match.copy, match.kept)

    def _may_merge(self, value: ir.Value) -> bool:
        tensor = facts.constant_tensor(value)
        return (
            tensor is not None
            and value.is_initializer()
            and not value.is_graph_input()
            and not facts.is_observed(value)
            and tensor.dtype != ir.DataType.STRING
            and max(self.least_bytes, 1) <= tensor.nbytes <= self.most_mb * 1e6
        )


_FIRST: WeakKeyDictionary[ir.Graph, dict[_Key, str]] = WeakKeyDictionary()
"""The name of the initializer that is kept of each content, so that one is not compared with all."""


def _key(value: ir.Value) -> _Key:
    tensor = facts.constant_tensor(value)
    assert tensor is not None
    digest = hashlib.sha256(tensor.tobytes()).digest()
    return tensor.dtype, tuple(tensor.shape.numpy()), digest


def _is_equal(a: ir.Value, b: ir.Value) -> bool:
    left, right = facts.constant_tensor(a), facts.constant_tensor(b)
    if left is None or right is None:
        return False
    same = left.dtype == right.dtype and left.shape == right.shape
    return a is b or (same and left.tobytes() == right.tobytes())
