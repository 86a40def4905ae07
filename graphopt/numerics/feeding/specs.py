"""What an input takes and an output gives, as the runtime sees it: kind, element type and dims."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from graphopt.numerics.feeding.sizes import Dim

Kind: TypeAlias = Literal["tensor", "sequence", "map", "sparse"]

_WRAPPED = re.compile(r"^(optional|seq|tensor|sparse_tensor)\((.*)\)$")
_MAP = re.compile(r"^map\((\w+),\s*(.*)\)$")


@dataclass(frozen=True, slots=True)
class ValueSpec:
    """An input or output of a model.

    Attributes:
        name: Its name.
        kind: What holds the elements; a sequence holds tensors.
        elem: The ONNX element type: ``float``, ``int64``, ``bfloat16``; of a map that of its values.
        dims: The dims of the tensor, or of each in a sequence; None where the rank is not known.
        optional: Whether it may be absent.
        key: The key type of a map.
        text: The whole type as text: ``seq(tensor(float))``.
    """

    name: str
    kind: Kind
    elem: str
    dims: tuple[Dim, ...] | None
    optional: bool = False
    key: str = ""
    text: str = ""

    @classmethod
    def parse(cls, name: str, text: str, dims: tuple[Dim, ...] | None) -> ValueSpec:
        """Read a type as ONNX Runtime writes it: ``optional(seq(tensor(float)))``."""
        kind: Kind = "tensor"
        optional = False
        inner = text.strip()
        while (found := _WRAPPED.match(inner)) is not None:
            optional |= found[1] == "optional"
            if found[1] in ("seq", "sparse_tensor"):
                kind = "sequence" if found[1] == "seq" else "sparse"
            inner = found[2].strip()
        maps = _MAP.match(inner)
        if maps is not None:
            value = _WRAPPED.match(maps[2].strip())
            return cls(name, "map", value[2] if value else maps[2], None, optional, maps[1], text)
        return cls(name, kind, inner, dims, optional, "", text)

    def __str__(self) -> str:
        if self.dims is None:
            return f"{self.name} {self.text}"
        return f"{self.name} {self.text} [{','.join('?' if d is None else str(d) for d in self.dims)}]"
