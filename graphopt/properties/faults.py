"""What can be wrong with what a pass made of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx.checker

from graphopt.model import Model
from graphopt.numerics.signature import Promise, signature_faults
from graphopt.properties.feeding import Fed
from graphopt.rewrite.passes import Signature
from graphopt.soundness import REFUSALS

NOT_IDEMPOTENT = "not idempotent"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a pass did wrong.

    Attributes:
        kind: An effect, or `NOT_IDEMPOTENT`.
        text: One phrase.
        feed: The feed that shows it, if it takes one.
    """

    kind: str
    text: str
    feed: Fed | None = None


def validity(before: onnx.ModelProto, after: onnx.ModelProto) -> Fault | None:
    """Whether what `onnx.checker` had nothing against has become something that it refuses."""
    why = invalid(after)
    if not why or invalid(before):
        return None
    return Fault("invalid model", f"the result is not valid: {why}")


def invalid(model: onnx.ModelProto) -> str:
    """What `onnx.checker` with strict shape inference has against a model; empty for nothing."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except REFUSALS as error:
        return " ".join(str(error).split())[:300]
    return ""


def signature(
    before: onnx.ModelProto, after: onnx.ModelProto, changes: Sequence[Signature] = ()
) -> Fault | None:
    """Whether inputs, outputs, opset and metadata are as they were, but for what passes declare."""
    promise = Promise.of(Model.from_proto(copied(before)))
    faults = signature_faults(promise, Model.from_proto(copied(after)), changes)
    return Fault("signature", "; ".join(faults)) if faults else None


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that shares nothing with its original."""
    return onnx.ModelProto.FromString(model.SerializeToString())
