"""Which kind of transformer a graph is, told from its operators, constants and inputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import numpy_helper

_BEFORE_SOFTMAX = frozenset({"Add", "Cast", "Clip", "Div", "Max", "Mul", "Reshape", "Sub", "Where"})
_AFTER_SOFTMAX = frozenset({"Cast", "Dropout", "IsNaN", "Mul", "Reshape", "Where"})
_ON_THE_WAY = frozenset({"Cast", "Reshape", "Squeeze", "Unsqueeze"})
_WRITTEN_OUT = frozenset({"Attention", "GroupQueryAttention", "MultiHeadAttention"})
_LAYER_NORMS = frozenset({"LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization"})
_RMS_NORMS = frozenset(
    {"RMSNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"}
)
_GROUP_NORMS = ("GroupNormalization", "InstanceNormalization")
_REACH = 6
_QUICK_GELU = 1.702
_SMALL = 1 << 22
"""Bytes of a constant, above which nobody looks into it."""


@dataclass(frozen=True)
class Kind:
    """What a graph was taken for.

    Attributes:
        model_type: The name that ONNX Runtime has for it; None where none fits.
        why: The signs of it, in a few words.
        num_heads: The heads of its attentions; 0 where its Reshapes do not agree on one number.
        hidden_size: Its width, with ``num_heads``.
    """

    model_type: str | None
    why: str
    num_heads: int = 0
    hidden_size: int = 0


def detect(model: onnx.ModelProto) -> Kind:
    """Say what kind of transformer the main graph of ``model`` is, and why."""
    signs = _Signs(model.graph)
    kind = signs.kind()
    heads, width = signs.heads() if kind.model_type else (0, 0)
    return replace(kind, num_heads=heads, hidden_size=width)


class _Signs:
    """What there is in a graph that tells transformers from each other, and from other models."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = list(graph.node)
        self._ops = Counter(node.op_type for node in self._nodes)
        self._makers = {name: node for node in self._nodes for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in self._nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self._tensors[node.output[0]] = node.attribute[0].t
        self._inputs = [value for value in graph.input if value.name not in self._tensors]
        self.attentions = sum(self._ops[op] for op in _WRITTEN_OUT) + sum(map(self._attends, self._nodes))
        self.layer_norms, self.rms_norms = self._norms()

    def kind(self) -> Kind:
        groups = sum(self._ops[op] for op in _GROUP_NORMS)
        if not self.attentions:
            return Kind(None, "it has no attention (no Softmax between two MatMuls)")
        found = f"{self.attentions} x attention, {self._describe_norms()}"
        if groups and self._ops["Conv"]:
            return Kind(
                None,
                f"{found}, {groups} x group norm beside Convs: the fusions for unet and vae make operators"
                " that ONNX Runtime has for GPUs only; to have them all the same, give the model type",
            )
        if not (self.layer_norms or self.rms_norms):
            return Kind(None, f"{found}: no transformer is built so")
        past = [value.name for value in self._inputs if "past" in value.name]
        ids = [value.name for value in self._inputs if self._is_table_index(value.name)]
        more = f", token ids '{ids[0]}'" if ids else ""
        rotary = self._ops["Cos"] or self._ops["RotaryEmbedding"]
        if self.rms_norms > self.layer_norms and not rotary:
            return Kind("t5", f"{found}{more}, no rotary positions")
        causal = f"{len(past)} inputs of earlier keys and values" if past else self._causal()
        if causal:
            return self._decoder(f"{found}{more}, {causal}")
        return self._encoder(found, more)

    def _decoder(self, found: str) -> Kind:
        if self.rms_norms:
            return Kind("qwen3", f"{found}, rotary positions")
        crossed = [v.name for v in self._inputs if re.search(r"encoder_(hidden|out|attention)", v.name)]
        if crossed:
            return Kind("bart", f"{found}, the input '{crossed[0]}' of an encoder")
        if self._quick_gelus() and not self._ops["Tanh"]:
            return Kind("clip", f"{found}, Gelu as x * sigmoid({_QUICK_GELU} x)")
        return Kind("gpt2", found)

    def _encoder(self, found: str, more: str) -> Kind:
        if more:
            return Kind("bert", f"{found}{more}, no causal mask")
        kernels = [self._tensors.get(node.input[1]) for node in self._nodes if node.op_type == "Conv"]
        groups = [_attribute(node, "group") for node in self._nodes if node.op_type == "Conv"]
        deep = [k for k, group in zip(kernels, groups, strict=True) if k and len(k.dims) == 3 and group > 1]
        if deep:
            return Kind("conformer", f"{found}, {len(deep)} x depthwise Conv along one axis")
        patches = self._patches()
        if patches:
            if any(size == 6 for size in self._reshape_ranks()):
                return Kind("swin", f"{found}, an image in patches of {patches}, windows")
            return Kind("vit", f"{found}, an image in patches of {patches}")
        return Kind("bert", f"{found}, neither token ids nor an image, no causal mask: an encoder at large")

    def _describe_norms(self) -> str:
        parts = [(self.layer_norms, "layer norm"), (self.rms_norms, "RMS norm")]
        return ", ".join(f"{count} x {name}" for count, name in parts if count) or "no layer norm"

    def _attends(self, node: onnx.NodeProto) -> bool:
        return (
            node.op_type == "Softmax"
            and self._reaches(node, _BEFORE_SOFTMAX, forward=False)
            and self._reaches(node, _AFTER_SOFTMAX, forward=True)
        )

    def _reaches(self, node: onnx.NodeProto, through: frozenset[str], *, forward: bool) -> bool:
        """Whether a MatMul is near, over operators that change single elements only."""
        edge, seen = [node], set[int]()
        for _ in range(_REACH):
            after = [other for here in edge for other in self._neighbours(here, forward=forward)]
            if any(other.op_type == "MatMul" for other in after):
                return True
            edge = [other for other in after if other.op_type in through and id(other) not in seen]
            seen.update(map(id, edge))
        return False

    def _neighbours(self, node: onnx.NodeProto, *, forward: bool) -> Iterator[onnx.NodeProto]:
        if forward:
            for name in node.output:
                yield from self._readers.get(name, [])
        else:
            yield from (self._makers[name] for name in node.input if name in self._makers)

    def _maker(self, node: onnx.NodeProto | None, op: str) -> onnx.NodeProto | None:
        """The node of this operator that makes an input of ``node``."""
        for made in self._neighbours(node, forward=False) if node is not None else ():
            while made.op_type == "Cast" and made.input[0] in self._makers:
                made = self._makers[made.input[0]]
            if made.op_type == op:
                return made
        return None

    def _norms(self) -> tuple[int, int]:
        layer = sum(self._ops[op] for op in _LAYER_NORMS)
        rms = sum(self._ops[op] for op in _RMS_NORMS)
        for node in self._nodes:
            mean = self._maker(self._maker(node, "Add"), "ReduceMean") if node.op_type == "Sqrt" else None
            squared = self._maker(mean, "Pow") or self._maker(mean, "Mul")
            if squared is None:
                continue
            if self._maker(self._maker(squared, "Sub"), "ReduceMean") is not None:
                layer += 1
            else:
                rms += 1
        return layer, rms

    def _is_table_index(self, name: str) -> bool:
        """Whether an input picks rows out of a table of weights, maybe cast or reshaped before."""
        names = [name]
        for here in names:
            for node in self._readers.get(here, []):
                if node.op_type in _ON_THE_WAY and node.input[0] == here and len(names) < _REACH:
                    names.append(node.output[0])
                table = self._tensors.get(node.input[0]) if node.op_type == "Gather" else None
                if table is not None and len(table.dims) == 2:
                    return True
        return False

    def _causal(self) -> str:
        if self._ops["Trilu"]:
            return "a mask made by Trilu"
        if any(_attribute(n, "is_causal") or _attribute(n, "unidirectional") for n in self._nodes):
            return "attention that is causal by itself"
        for name, tensor in self._tensors.items():
            square = len(tensor.dims) > 2 and tensor.dims[-1] == tensor.dims[-2] > 1
            if square and set(tensor.dims[:-2]) == {1} and self._is_triangle(tensor):
                return f"a triangular mask '{name}'"
        for node in self._nodes:
            if node.op_type in ("GreaterOrEqual", "Greater", "LessOrEqual", "Less"):
                sides = [self._makers.get(name) for name in node.input]
                if all(side is not None and self._counts(side) for side in sides):
                    return "a mask of positions that come later"
        return ""

    def _counts(self, node: onnx.NodeProto | None) -> bool:
        for _ in range(_REACH):
            if node is None or node.op_type == "Range":
                return node is not None
            node = self._makers.get(node.input[0]) if node.input else None
        return False

    @staticmethod
    def _is_triangle(tensor: onnx.TensorProto) -> bool:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.raw_data) > _SMALL:
            return False
        matrix = numpy_helper.to_array(tensor).reshape(-1, tensor.dims[-2], tensor.dims[-1])[0]
        upper, lower = np.triu_indices(len(matrix), 1), np.tril_indices(len(matrix))
        return bool((matrix[upper] == matrix[upper][0]).all() and (matrix[lower] != matrix[upper][0]).all())

    def _quick_gelus(self) -> int:
        scaled = [self._maker(node, "Mul") for node in self._nodes if node.op_type == "Sigmoid"]
        factors = [self._tensors.get(name) for node in scaled if node is not None for name in node.input]
        return sum(
            abs(float(numpy_helper.to_array(t).reshape(-1)[0]) - _QUICK_GELU) < 1e-3
            for t in factors
            if t is not None and not t.dims and t.data_type == onnx.TensorProto.FLOAT
        )

    def _patches(self) -> str:
        images = {value.name for value in self._inputs if len(value.type.tensor_type.shape.dim) == 4}
        for node in self._nodes:
            kernel = self._tensors.get(node.input[1]) if node.op_type == "Conv" else None
            if kernel is not None and node.input[0] in images and kernel.dims[-1] > 1:
                strides = next((list(a.ints) for a in node.attribute if a.name == "strides"), [])
                if strides == list(kernel.dims[2:]):
                    return " x ".join(map(str, strides))
        return ""

    def heads(self) -> tuple[int, int]:
        """Heads and width: what splits the width for a Transpose, and what joins it after one."""
        split, joined = set[tuple[int, int]](), set[int]()
        for node in self._nodes:
            shape = self._target(node) if node.op_type == "Reshape" else []
            read = self._readers.get(node.output[0], [])
            if len(shape) == 4 and shape[3] > 0 and any(reader.op_type == "Transpose" for reader in read):
                split.add((max(shape[2], 0), shape[3]))
                joined.update(self._bias_sizes(node))
            if len(shape) == 3 and shape[2] > 0 and self._maker(node, "Transpose") is not None:
                joined.add(shape[2])
        each = {size for _, size in split}
        if len(each) != 1 or len(joined) != 1:
            return 0, 0
        width, size = joined.pop(), each.pop()
        counts = {count for count, _ in split if count} | {width // size}
        return (counts.pop(), width) if len(counts) == 1 and width % size == 0 else (0, 0)

    def _bias_sizes(self, node: onnx.NodeProto) -> list[int]:
        """The lengths of what an Add before ``node`` adds to each row."""
        added = self._maker(node, "Add")
        rows = [self._tensors.get(name) for name in added.input] if added is not None else []
        return [row.dims[0] for row in rows if row is not None and len(row.dims) == 1]

    def _target(self, node: onnx.NodeProto) -> list[int]:
        """The shape that a Reshape gives, -1 for what is not known."""
        tensor = self._constant(node.input[1])
        if tensor is not None:
            return tensor
        maker = self._makers.get(node.input[1])
        if maker is None or maker.op_type != "Concat":
            return []
        parts = [self._constant(name) or [-1] for name in maker.input]
        return [number for part in parts for number in part]

    def _constant(self, name: str) -> list[int] | None:
        maker = self._makers.get(name)
        while maker is not None and maker.op_type in ("Unsqueeze", "Cast"):
            name, maker = maker.input[0], self._makers.get(maker.input[0])
        tensor = self._tensors.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.INT64 or np.prod(tensor.dims) > 8:
            return None
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return [int(number) for number in numpy_helper.to_array(tensor).reshape(-1)]

    def _reshape_ranks(self) -> Iterator[int]:
        for node in self._nodes:
            shape = self._tensors.get(node.input[1]) if node.op_type == "Reshape" else None
            if shape is not None and shape.dims:
                yield shape.dims[0]


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((attr.i for attr in node.attribute if attr.name == name), 0)
