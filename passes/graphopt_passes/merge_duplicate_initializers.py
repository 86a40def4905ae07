"""Let readers of equal weights read one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_Key = tuple[ir.DataType, tuple[int, ...], bytes]
_SAMPLE = 64
_PIECE = 1 << 20


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
        most_mb: The largest initializers that are compared, in megabytes. Where type, shape and a sample of
            two are equal, both have to be read.

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
        alike = _ALIKE.setdefault(graph, {}).setdefault(_key(value), [])
        for name in alike:
            kept = graph.initializers.get(name)
            if kept is value:
                return None
            if kept is not None and self._may_merge(kept) and _is_equal(kept, value):
                return facts.replaceable(value, kept) or Equal(value, kept)
        alike.append(value.name or "")
        return None

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


_ALIKE: WeakKeyDictionary[ir.Graph, dict[_Key, list[str]]] = WeakKeyDictionary()
"""The names of the initializers with one sample, so that one is not compared with all."""


def _key(value: ir.Value) -> _Key:
    """Type, shape and a sample: to read all of each weight would cost more than the rest of a run."""
    tensor = facts.constant_tensor(value)
    assert tensor is not None
    flat = tensor.numpy().reshape(-1)
    sample = np.concatenate([flat[:_SAMPLE], flat[flat.size // 2 :][:_SAMPLE], flat[-_SAMPLE:]])
    return tensor.dtype, tuple(tensor.shape.numpy()), sample.tobytes()


def _is_equal(a: ir.Value, b: ir.Value) -> bool:
    left, right = facts.constant(a), facts.constant(b)
    if left is None or right is None or left.dtype != right.dtype or left.shape != right.shape:
        return False
    return all(map(np.array_equal, _pieces(left), _pieces(right)))


def _pieces(array: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """The bits, a piece at a time: most pairs differ in the first, and a copy of all is never made."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        yield np.ascontiguousarray(flat[start : start + _PIECE]).view(np.uint8)
