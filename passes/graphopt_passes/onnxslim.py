"""OnnxSlim, as a pass."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from graphopt import Numerics, OpaquePass, ToolReport
from graphopt_passes import _files, _peers

_FUSION = "graph_fusion"
_SHAPES = "shape_infer"
_STEPS = {
    "dead_node_elimination": "dead_node_elimination",
    "subexpression_elimination": "subexpression_elimination",
    "weight_tying": "tie_weights",
}


@dataclass(frozen=True)
class OnnxSlim(OpaquePass):
    """Fold constants, infer shapes, and fuse and eliminate nodes with OnnxSlim.

    The result is that of ``onnxslim.slim(model)``. Its components are its fusion patterns
    (``FusionConvBN``, ``EliminationSlice``), all of them at once as ``graph_fusion``, and
    ``constant_folding``, ``dead_node_elimination``, ``subexpression_elimination``, ``weight_tying`` and
    ``shape_infer``.

    Example:
        g (float[1, 2, 8, 8] x) => (float[1, 2, 10, 10] y)
        <int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, float[2, 2, 1, 1] w = {1, 2, 3, 4},
         float[1, 2, 1, 1] scale = {2, 3}> {
            a = Pad (x, pads)
            b = Conv (a, w)
            y = Mul (b, scale)
        }

    Why it pays:
        Ultralytics runs it on every export: it folds what only depends on constants and shapes, removes
        nodes without effect, and fuses BatchNormalization, Add, Mul and Pad into Convs.

    When it does not apply:
        An input with a default becomes a constant. What cannot be switched off is the way into its own
        graph and back, which sorts the nodes, and, unless ``graph_fusion`` is off, the removal of what
        nothing reads.

    Numerics:
        Reassociates: a folded tensor was computed by the kernels of the machine that folded it, and fused
        weights are rounded once more.

    Source:
        OnnxSlim. A component is reported where the graph is another one after it than before it.
    """

    name = "onnxslim"
    numerics = Numerics.REASSOCIATES
    packages = ("onnxslim", "onnxruntime")
    holds_weights = True

    def components(self) -> frozenset[str]:
        settings = _peers.load("onnxslim", "core.optimization").OptimizationSettings
        return frozenset({*settings.keys(), *_matchers(), _SHAPES})

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        return {_FUSION: tuple(_matchers())}

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        _peers.refuse_unknown(self.name, disabled, self.components())
        settings = _peers.load("onnxslim", "core.optimization").OptimizationSettings
        watch = _Watch()
        kept = settings.stats()
        try:
            with watch.installed():
                result: onnx.ModelProto = _peers.load("onnxslim").slim(
                    str(source),
                    model_check=False,
                    no_shape_infer=_SHAPES in disabled,
                    skip_optimizations=sorted(disabled.intersection(settings.keys())),
                    skip_fusion_patterns=sorted(disabled.intersection(_matchers())),
                )
        finally:
            settings.reset([name for name, on in kept.items() if not on])
        _peers.save(result, target)
        return ToolReport(tuple(watch.changed))


@dataclass
class _Watch:
    """Looks at the graph before and after each part of OnnxSlim.

    Attributes:
        changed: The components that changed the model, in the order in which they did so first.
    """

    changed: dict[str, None] = field(default_factory=dict[str, None])

    @contextmanager
    def installed(self) -> Generator[None]:
        """Until the context ends, every part of OnnxSlim goes through this watch."""
        core = _peers.load("onnxslim", "core")
        optimization = _peers.load("onnxslim", "core.optimization")
        graph_class = optimization.Graph
        fold, optimize = graph_class.fold_constants, core.optimize_model
        unfolded: list[Any] = []

        def watched_fold(graph: Any, *args: Any, **options: Any) -> Any:
            if not unfolded:  # it calls itself for subgraphs
                unfolded.append(_graph_state(graph))
            return fold(graph, *args, **options)

        def watched_optimize(graph: Any, *args: Any) -> Any:
            # What folding left dead is removed between the two.
            if unfolded and unfolded[0] != _graph_state(graph):
                self.changed["constant_folding"] = None
            unfolded.clear()
            return optimize(graph, *args)

        steps = [
            (optimization, function, self._around(name, getattr(optimization, function), _graph_state))
            for name, function in _STEPS.items()
        ]
        patterns = [
            (matcher, "rewrite", self._around(name, matcher.rewrite, _match_state, matcher))
            for name, matchers in _matchers().items()
            for matcher in matchers
        ]
        with _peers.replaced(
            (graph_class, "fold_constants", watched_fold),
            (core, "optimize_model", watched_optimize),
            (core, "shape_infer", self._around(_SHAPES, core.shape_infer, _shape_state)),
            *steps,
            *patterns,
        ):
            yield

    def _around(
        self,
        name: str,
        function: Callable[..., Any],
        state: Callable[[Any], Any],
        subject: Any = None,
    ) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            looked_at = args[0] if subject is None else subject
            before = state(looked_at)
            result = function(*args, **options)
            after = result if isinstance(result, onnx.ModelProto) else looked_at
            if state(after) != before:
                self.changed[name] = None
            return result

        return watched


def _matchers() -> dict[str, list[Any]]:
    return _peers.load("onnxslim", "core.pattern.registry").DEFAULT_FUSION_PATTERNS


def _graph_state(graph: Any) -> list[Any]:
    state: list[Any] = [[_tensor(tensor) for tensor in (*graph.inputs, *graph.outputs)]]
    state.extend(map(_node_state, graph.nodes))
    state.extend(_graph_state(subgraph) for subgraph in graph.subgraphs())
    return state


def _node_state(node: Any) -> list[Any]:
    attrs = [(name, value if isinstance(value, _PLAIN) else id(value)) for name, value in node.attrs.items()]
    return [node.op, list(map(_tensor, node.inputs)), list(map(_tensor, node.outputs)), attrs]


_PLAIN = (int, float, str)


def _tensor(tensor: Any) -> tuple[str, str]:
    return type(tensor).__name__, tensor.name


def _match_state(matcher: Any) -> list[Any]:
    """The nodes of a match and who reads them: a pattern detaches or rewires one of these."""
    nodes = [getattr(matcher, name, None) for name in matcher.pattern_dict]
    nodes = [node for node in nodes if hasattr(node, "attrs")]
    readers = [id(reader) for node in nodes for tensor in node.outputs for reader in tensor.outputs]
    return [readers, *map(_node_state, nodes)]


def _shape_state(model: onnx.ModelProto) -> list[Any]:
    state: list[Any] = []
    for graph in _files.graphs(model):
        ports = [] if isinstance(graph, onnx.FunctionProto) else graph.output
        state.append([info.SerializeToString() for info in (*graph.value_info, *ports)])
        state.append([[node.op_type, *node.input, "", *node.output] for node in graph.node])
    return state
