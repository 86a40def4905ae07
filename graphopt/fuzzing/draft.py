"""A model in the making: values of known types and shapes, and nodes that onnx's own inference accepts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from graphopt.soundness import REFUSALS

Array: TypeAlias = np.ndarray[Any, Any]
DType: TypeAlias = np.dtype[Any]

FLOATS = tuple(np.dtype(kind) for kind in (np.float32, np.float64, np.float16))
INTS = tuple(np.dtype(kind) for kind in (np.int64, np.int32))
_MOST_ELEMENTS = 4096
_PLAIN_NUMBERS = (0.0, 1.0, -1.0, 2.0, 0.5, 3.0, -0.0)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the model.

    Attributes:
        name: Its name.
        dtype: The type of its elements.
        shape: Its shape, in sizes that the model is known to be valid for.
        content: What it is on every run; None where that depends on inputs.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    content: Array | None = None

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_float(self) -> bool:
        """Whether it holds floats."""
        return self.dtype in FLOATS

    @property
    def type(self) -> onnx.TypeProto:
        """Its type as ONNX has it."""
        return onnx.helper.make_tensor_type_proto(
            onnx.helper.np_dtype_to_tensor_dtype(self.dtype), self.shape
        )


@dataclass
class Names:
    """Gives names, unique in a model."""

    count: int = 0

    def __call__(self, stem: str) -> str:
        """A new name."""
        self.count += 1
        return f"{stem}{self.count}"


@dataclass
class Draft:
    """Collects a graph.

    Attributes:
        rng: Decides everything.
        opset: The version of the default opset.
        dtype: What most of its tensors hold.
        numbers: Numbers that the pass under attack knows.
        names: Gives names.
        outer: The values of the graphs around this one.
        nodes: The nodes so far.
        values: What depends on inputs, in order.
        constants: What does not.
        inputs: The inputs.
        defaults: The initializers that are inputs as well.
        tensors: The initializers.
    """

    rng: random.Random
    opset: int
    dtype: DType
    numbers: Sequence[float] = ()
    names: Names = field(default_factory=Names)
    outer: tuple[Value, ...] = ()
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    values: list[Value] = field(default_factory=list[Value])
    constants: list[Value] = field(default_factory=list[Value])
    inputs: list[Value] = field(default_factory=list[Value])
    defaults: list[Value] = field(default_factory=list[Value])
    tensors: list[onnx.TensorProto] = field(default_factory=list[onnx.TensorProto])

    def inner(self) -> Draft:
        """The draft of a subgraph, which sees all that is there."""
        return Draft(self.rng, self.opset, self.dtype, self.numbers, self.names, (*self.outer, *self.values))

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return self.rng.random() < share

    def pick(self, items: Sequence[Any]) -> Any:
        """One of the items."""
        return items[self.rng.randrange(len(items))]

    def schema(self, op: str, domain: str = "") -> onnx.defs.OpSchema | None:
        """The operator as this opset has it."""
        try:
            found = onnx.defs.get_schema(op, self.opset, domain)
        except onnx.defs.SchemaError:
            return None
        return None if found.deprecated else found

    def has_attribute(self, op: str, name: str) -> bool:
        """Whether this opset's form of an operator has an attribute."""
        schema = self.schema(op)
        return schema is not None and name in schema.attributes

    def number(self) -> float:
        """A number, rather one that a pass would look for."""
        if self.numbers and self.chance(0.4):
            return float(self.pick(self.numbers))
        return self.pick(_PLAIN_NUMBERS) if self.chance(0.5) else round(self.rng.gauss(0, 1), 3)

    def array(self, dtype: DType, shape: Sequence[int], *, low: float = -2.0, high: float = 2.0) -> Array:
        """Numbers between two bounds."""
        count = int(np.prod(shape, dtype=np.int64))
        if dtype.kind == "b":
            return np.array([self.chance(0.5) for _ in range(count)], dtype).reshape(shape)
        if dtype.kind in "iu":
            bottom = max(int(low), 0) if dtype.kind == "u" else int(low)
            return np.array([self.rng.randint(bottom, int(high)) for _ in range(count)], dtype).reshape(shape)
        return np.array([self.rng.uniform(low, high) for _ in range(count)]).astype(dtype).reshape(shape)

    def input(self, dtype: DType, shape: Sequence[int]) -> Value:
        """A new input of the main graph; in a subgraph a constant in its place."""
        if self.outer:
            return self.constant(self.array(dtype, shape))
        value = Value(self.names("x"), dtype, tuple(shape))
        self.inputs.append(value)
        self.values.append(value)
        return value

    def constant(self, content: Array | float | Sequence[float], dtype: DType | None = None) -> Value:
        """A constant: an initializer, one that is an input as well, or a Constant node."""
        array = np.asarray(content, dtype)
        for known in self.constants:
            same = known.content is not None and known.dtype == array.dtype and known.shape == array.shape
            if same and self.chance(0.3) and known.content.tobytes() == array.tobytes():  # pyright: ignore[reportOptionalMemberAccess]
                return known
        value = Value(self.names("c"), array.dtype, array.shape, array)
        tensor = onnx.numpy_helper.from_array(array, value.name)
        if self.chance(0.25):
            self._append(onnx.helper.make_node("Constant", [], [value.name], value=tensor))
        else:
            self.tensors.append(tensor)
            if not self.outer and self.chance(0.08):
                self.defaults.append(value)
        self.constants.append(value)
        return value

    def like(self, dtype: DType, shape: Sequence[int], *, varying: float = 0.7) -> Value:
        """A value of this type and shape: one that is there, a new input, or a constant."""
        shape = tuple(shape)
        fitting = [v for v in (*self.values, *self.outer) if v.dtype == dtype and v.shape == shape]
        if fitting and self.chance(0.8):
            return self.pick(fitting[-4:])
        if self.chance(varying) or len(self.inputs) < 1:
            return self.input(dtype, shape)
        return self.constant(self.array(dtype, shape))

    def add(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any] | None = None,
        outputs: int = 1,
        domain: str = "",
    ) -> list[Value] | None:
        """Add a node, if onnx's type and shape inference says what it gives.

        Returns:
            What it gives; None where the node would not be valid, or says nothing of its result.
        """
        schema = self.schema(op, domain)
        if schema is None or not _accepts(schema, inputs):
            return None
        names = [self.names("v") for _ in range(outputs)]
        given = {
            name: value for name, value in (attributes or {}).items() if value is not None and value != []
        }
        node = onnx.helper.make_node(
            op, ["" if value is None else value.name for value in inputs], names, domain=domain, **given
        )
        kinds = self._inferred(schema, node, [value for value in inputs if value is not None])
        found = [_value(name, kinds.get(name)) for name in names]
        if any(value is None or value.size > _MOST_ELEMENTS for value in found):
            return None
        self._append(node)
        made = [value for value in found if value is not None]
        self.values.extend(made)
        return made

    def _append(self, node: onnx.NodeProto) -> None:
        if self.chance(0.7):
            node.name = self.names("/n")
        self.nodes.append(node)

    def _inferred(
        self, schema: onnx.defs.OpSchema, node: onnx.NodeProto, inputs: Sequence[Value]
    ) -> Mapping[str, onnx.TypeProto]:
        contents = {
            value.name: onnx.numpy_helper.from_array(value.content, value.name)
            for value in inputs
            if value.content is not None
        }
        imports = [onnx.helper.make_opsetid("", self.opset)]
        try:
            return onnx.shape_inference.infer_node_outputs(
                schema, node, {value.name: value.type for value in inputs}, contents, opset_imports=imports
            )
        except REFUSALS:
            return {}


def _accepts(schema: onnx.defs.OpSchema, inputs: Sequence[Value | None]) -> bool:
    if not schema.min_input <= len(inputs) <= schema.max_input:
        return False
    bound: dict[str, DType] = {}
    for index, value in enumerate(inputs):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        if value is None:
            if formal.option != onnx.defs.OpSchema.FormalParameterOption.Optional:
                return False
            continue
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        name = onnx.TensorProto.DataType.Name(kind).lower()
        if f"tensor({name})" not in formal.types:
            return False
        # Where a variadic input need not be homogeneous, its type variable binds nothing.
        if formal.is_homogeneous and bound.setdefault(formal.type_str, value.dtype) != value.dtype:
            return False
    return True


def _value(name: str, kind: onnx.TypeProto | None) -> Value | None:
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)
    return Value(name, dtype, tuple(dim.dim_value for dim in dims))
