"""Switches the fusions of onnxruntime.transformers off one by one, and sees which of them do anything."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import onnx

from graphopt_passes import _files, _peers

# What --disable_* flags switch off, by the classes that do the work; the first that fits counts.
_FLAGS = (
    (r"BiasSkipLayerNorm", "bias_skip_layer_norm"),
    (r"EmbedLayer", "embed_layer_norm"),
    (r"SkipGroupNorm", "skip_group_norm"),
    (r"GroupNorm", "group_norm"),
    (r"Skip(Simplified)?LayerNorm", "skip_layer_norm"),
    (r"LayerNorm", "layer_norm"),
    (r"BiasSplitGelu", "bias_splitgelu"),
    (r"BiasGelu", "bias_gelu"),
    (r"GeluApproximation", "gelu_approximation"),
    (r"GemmFastGelu", "gemm_fast_gelu"),
    (r"Gelu", "gelu"),
    (r"RotaryEmbedding", "rotary_embeddings"),
    (r"Attention|MultiHead|Mha|Attn", "attention"),
    (r"QOrderedMatMul", "qordered_matmul"),
)
_OFF_BY_DEFAULT = frozenset({"gelu_approximation", "gemm_fast_gelu"})
_CLEANING = ("remove_identity_nodes", "remove_useless_cast_nodes", "remove_useless_reshape_nodes")
_AROUND = ("preprocess", "postprocess")
"""What some model types do before and after their fusions, without being asked."""


def component(cls: str) -> str:
    """The component that a class of fusions belongs to: a flag's, else its own name."""
    plain = cls.removeprefix("Fusion")
    for pattern, flag in _FLAGS:
        if re.search(pattern, plain):
            return flag
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain).lower()


def components() -> frozenset[str]:
    """All components of the installed ``onnxruntime.transformers.optimizer``.

    Shape inference is none, although there is a flag for it: without it, adding and normalizing is fused
    unseen, where the shapes do not allow it as well.
    """
    base = _module("fusion_base").Fusion
    fusions = {component(cls.__name__) for cls in _descendants(base) if cls is not base}
    return frozenset({*fusions, *_CLEANING, *_AROUND} - _OFF_BY_DEFAULT)


def switch_off(options: Any, disabled: Iterable[str]) -> None:
    """Let the tool's own options say what is off, where they can."""
    for name in disabled:
        if hasattr(options, f"enable_{name}"):
            setattr(options, f"enable_{name}", False)


@dataclass
class Watch:
    """Looks at the graph before and after each step of the tool, and leaves out what is switched off.

    Attributes:
        disabled: The components to leave out.
        changed: The components that changed the model, in the order in which they did so first.
    """

    disabled: frozenset[str]
    changed: dict[str, None] = field(default_factory=dict[str, None])
    _running: list[str] = field(default_factory=list[str])

    @contextmanager
    def installed(self) -> Generator[None]:
        """Until the context ends, every step of the tool goes through this watch."""
        places = [
            (cls, "apply", self._around(apply, lambda step: component(type(step).__name__)))
            for cls, apply in _own(_module("fusion_base").Fusion, "apply")
        ]
        for names, base in (
            (_CLEANING, _module("fusion_utils").FusionUtils),
            (_AROUND, _module("onnx_model").OnnxModel),
        ):
            for name in names:
                places.extend((cls, name, self._around(step, name)) for cls, step in _own(base, name))
        with _peers.replaced(*places):
            yield

    def _around(self, function: Callable[..., Any], name: str | Callable[[Any], str]) -> Callable[..., Any]:
        def watched(step: Any, *args: Any, **options: Any) -> Any:
            label = name if isinstance(name, str) else name(step)
            if label in self.disabled:
                return None
            if label in self._running:  # it calls its parent's
                return function(step, *args, **options)
            model = step.model if isinstance(step.model, onnx.ModelProto) else step.model.model
            before = _state(model)
            self._running.append(label)
            try:
                result = function(step, *args, **options)
            finally:
                self._running.pop()
            if _state(model) != before:
                self.changed[label] = None
            return result

        return watched


def _module(name: str) -> Any:
    # They import each other by names without a package, once the package was imported.
    importlib.import_module("onnxruntime.transformers.optimizer")
    return importlib.import_module(name)


def _descendants(cls: Any) -> Iterator[Any]:
    yield cls
    for child in cls.__subclasses__():
        yield from _descendants(child)


def _own(base: Any, name: str) -> list[tuple[Any, FunctionType]]:
    """The classes from ``base`` on that define a method, and their methods."""
    return [(cls, vars(cls)[name]) for cls in dict.fromkeys(_descendants(base)) if name in vars(cls)]


def _state(model: onnx.ModelProto) -> list[Any]:
    state: list[Any] = []
    for graph in _files.graphs(model):
        if isinstance(graph, onnx.GraphProto):
            state.append([(tensor.name, tensor.data_type, *tensor.dims) for tensor in graph.initializer])
        for node in graph.node:
            attributes = [attr.SerializeToString() for attr in node.attribute]
            state.append((node.domain, node.op_type, list(node.input), list(node.output), attributes))
    return state
