"""Weights that a pass made: in memory, or computed when somebody asks. Writing copies one at a time."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from typing import IO

import numpy as np
import onnx_ir as ir

SMALLEST = 1 << 20
"""Bytes of a tensor that is worth it."""


@dataclass(frozen=True)
class HeldTensor:
    """A large tensor that lies in no file, to be written like one that does (`graphopt.mapped.MappedTensor`).

    Attributes:
        tensor: The tensor.
    """

    tensor: ir.TensorProtocol
    says_where: bool = False
    outside: bool = False

    @classmethod
    def of(cls, tensor: ir.TensorProtocol | None) -> HeldTensor | None:
        """The tensor as one that is held; None where it is small, or of a kind that its bytes do not show."""
        if not isinstance(tensor, ir.Tensor | ir.LazyTensor) or tensor.metadata_props:
            return None
        if tensor.dtype.bitwidth < 8 or tensor.dtype == ir.DataType.STRING or tensor.nbytes < SMALLEST:
            return None
        return cls(tensor)

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.tensor.nbytes

    @property
    def content(self) -> memoryview:
        """The bytes in little-endian order; computed, or copied, where they do not lie so in memory."""
        array = np.ascontiguousarray(np.asarray(self.tensor.numpy()))
        if array.dtype.byteorder == ">" or (sys.byteorder == "big" and array.dtype.byteorder == "="):
            array = array.byteswap()
        return array.reshape(-1).view(np.uint8).data

    def __len__(self) -> int:
        return self.nbytes

    def digest(self) -> bytes:
        """The SHA-256 of the content."""
        return hashlib.sha256(self.content).digest()

    def tofile(self, file: IO[bytes]) -> None:
        """Write the content."""
        file.write(self.content)

    def release(self) -> None:
        """Note that the content is not needed soon."""
