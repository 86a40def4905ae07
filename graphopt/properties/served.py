"""The worker's side of `graphopt.properties.running`: runs a model that came as bytes."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.reference
from onnx.reference.op_run import OpRun
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from graphopt.messages import graph_protos
from graphopt.numerics.runtime import SessionSpec, make
from graphopt.numerics.served import run_values

Engine = Literal["runtime", "reference"]
_MOST_MODELS = 4
# It trains where it should not, flattens what it should not, sums over too few channels, loses the bias.
_UNTRUE_BELOW = {"BatchNormalization": 14, "Hardmax": 13, "LRN": 1000, "ConvTranspose": 1000}
_models: OrderedDict[tuple[str, str], Any] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a model.

    Attributes:
        outputs: The outputs by name; None where it failed.
        error: Why it failed.
        lacks_kernel: Whether that is for lack of a kernel.
    """

    outputs: Mapping[str, Any] | None = None
    error: str = ""
    lacks_kernel: bool = False


def evaluate(content: bytes, feeds: Sequence[Mapping[str, Any]], engine: Engine) -> list[Run]:
    """Run a model on feeds.

    Args:
        content: The model.
        feeds: What it is run on.
        engine: ONNX Runtime without its optimizer, or onnx's reference evaluator.
    """
    try:
        if _writes_weights(content):
            return [_run(_make(content, engine), feed) for feed in feeds]
        loaded = _loaded(content, engine)
    except NoKernel as error:
        return [Run(error=str(error), lacks_kernel=True)] * len(feeds)
    except Exception as error:  # neither engine has a base class for what it raises
        return [Run(error=f"{type(error).__name__}: {error}")] * len(feeds)
    return [_run(loaded, feed) for feed in feeds]


def _writes_weights(content: bytes) -> bool:
    """Whether it may train: ONNX Runtime writes the new statistics into the session's own weights."""
    return b"training_mode" in content


def _loaded(content: bytes, engine: Engine) -> Any:
    key = (hashlib.sha256(content).hexdigest(), engine)
    found = _models.pop(key, None)
    if found is None:
        while len(_models) >= _MOST_MODELS:
            _models.popitem(last=False)
        found = _make(content, engine)
    _models[key] = found
    return found


def _make(content: bytes, engine: Engine) -> Any:
    if engine == "reference":
        model = onnx.ModelProto.FromString(content)
        _refuse_untrue(model)
        return onnx.reference.ReferenceEvaluator(model, new_ops=[Relu])
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        Path(file.name).write_bytes(content)
        return make(SessionSpec(file.name, level="disable", threads=1))


class Relu(OpRun):
    """As the reference evaluator's Clip and ONNX Runtime have it, -0 stays -0; its own Relu makes it 0."""

    op_domain = ""

    def _run(self, x: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any]]:
        return (np.where(x < 0, np.zeros((), x.dtype), x),)


def _refuse_untrue(model: onnx.ModelProto) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    for graph in graph_protos(model.graph):
        for node in graph.node:
            untrue = opset < _UNTRUE_BELOW.get(node.op_type, 0)
            if untrue or _is_out_of_order(node) or _is_padded_askew(node):
                raise ValueError(f"onnx's reference evaluator computes {node.op_type} wrongly")


def _is_out_of_order(node: onnx.NodeProto) -> bool:
    """Whether it is an Unsqueeze whose axes, an attribute, would be inserted one after the other."""
    found = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), [])
    return node.op_type == "Unsqueeze" and found != sorted(found)


def _is_padded_askew(node: onnx.NodeProto) -> bool:
    """Whether it is a pool whose pads, all starts and then all ends, would be read as pairs of both."""
    pads = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "pads"), [])
    pairs = [
        amount for pair in zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True) for amount in pair
    ]
    return node.op_type in ("AveragePool", "LpPool", "MaxPool") and pads != pairs


def _run(loaded: Any, feed: Mapping[str, Any]) -> Run:
    try:
        if isinstance(loaded, onnx.reference.ReferenceEvaluator):
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known = set(loaded.input_names)
                values: Any = loaded.run(None, {name: value for name, value in feed.items() if name in known})
            names = map(str, loaded.output_names)
            return Run(dict(zip(names, map(_plain, values), strict=True)))
        values = run_values(loaded, feed)[0]
        # It does so with the second of two outputs of a branch that are one value.
        left = [
            p.name for p in loaded.get_outputs() if p.type.startswith("tensor(") and values[p.name] is None
        ]
        return Run(error=f"the runtime gives the output '{left[0]}' no value") if left else Run(values)
    except NoKernel as error:
        return Run(error=str(error), lacks_kernel=True)
    except Exception as error:  # see `evaluate`
        return Run(error=f"{type(error).__name__}: {error}")


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, list | dict) else np.asarray(value)
