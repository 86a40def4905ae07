"""ONNX Runtime's own graph optimizer, as a pass."""

from __future__ import annotations

import difflib
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from graphopt import BadInput, Numerics, OpaquePass, ToolReport

_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training"})
_BLOCKED = "com.microsoft.nchwc"
_OUTSIDE_ABOVE = 1_500_000_000


@dataclass(frozen=True)
class Ort(OpaquePass):
    """Let ONNX Runtime optimize the model and save what it made.

    Why it pays:
        ONNX Runtime fuses what it has kernels for: activations into Convs, attention, LayerNorm, Gelu.
        Done ahead of time, loading is faster and the fused graph can be checked before it ships.

    When it does not apply:
        The result of level extended needs ONNX Runtime where fused operators are used. That of level
        layout and all also holds the blocked layout of this CPU's family: on another one it fails, or
        is silently wrong. The record says which of the three it is. A float16 model that would come
        back with more nodes, in Casts to float32, is left as it was.

    Numerics:
        Reassociates: fused kernels round differently.

    Source:
        The graph transformers and rewrite rules of onnxruntime; those that changed the model are listed
        as components, read from its log.

    Attributes:
        level: How far to go: ``basic``, ``extended``, ``layout`` or ``all``.
    """

    name = "ort"
    numerics = Numerics.REASSOCIATES
    packages = ("onnxruntime",)

    level: Literal["basic", "extended", "layout", "all"] = "extended"

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        import onnxruntime as ort

        from graphopt_passes import _ort_log

        _refuse_unknown(disabled)
        if _ort_log.LEVELS[self.level] is None:
            raise BadInput(
                f"Pass 'ort': onnxruntime {ort.__version__} has no level '{self.level}'; use 'all'."
            )
        options = _ort_log.verbose_options(self.level)
        options.optimized_model_filepath = str(target)
        if _weights_lie_outside(source):
            prefix = "session.optimized_model_external_initializers"
            options.add_session_config_entry(f"{prefix}_file_name", f"{target.name}.data")
            options.add_session_config_entry(f"{prefix}_min_size_in_bytes", "1024")

        def create() -> None:
            ort.InferenceSession(
                str(source),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=sorted(disabled) or None,
            )

        used = _ort_log.modified(_ort_log.captured(create))
        casts = _inserted_casts(source, target)
        if casts:
            shutil.copytree(source.parent, target.parent, dirs_exist_ok=True)
            return ToolReport(notes=(f"left as it was: ONNX Runtime would insert {casts} Casts around"
                                     " operators that it has no kernel of this type for on this CPU",))  # fmt: skip
        return _report(source, target, tuple(name for name in used if name not in disabled))


def _weights_lie_outside(source: Path) -> bool:
    return any(source.parent.glob(f"{source.name}.data")) or source.stat().st_size > _OUTSIDE_ABOVE


def _refuse_unknown(disabled: frozenset[str]) -> None:
    if not disabled:
        return
    from graphopt_passes import _ort_log

    known = _ort_log.known_names()
    for name in sorted(disabled - known):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean '{near[0]}'" if near else ""
        raise BadInput(f"Pass 'ort' has no component '{name}'{hint}; it has {', '.join(sorted(known))}.")


def _report(source: Path, target: Path, used: tuple[str, ...]) -> ToolReport:
    before, after = _foreign_ops(source), _foreign_ops(target)
    added = after - before
    blocked = sum(count for (domain, _), count in added.items() if domain == _BLOCKED)
    notes = [f"{count} {op}" for (_, op), count in added.most_common()]
    if blocked:
        return ToolReport(used, tuple(notes), "this cpu")
    return ToolReport(used, tuple(notes), "onnxruntime" if added else "any runtime")


def _inserted_casts(source: Path, target: Path) -> int:
    """How many Casts the result has more, if it has more nodes than the source because of them."""
    before, after = (onnx.load(path, load_external_data=False).graph.node for path in (source, target))
    casts = [sum(1 for node in nodes if node.op_type == "Cast") for nodes in (before, after)]
    return casts[1] - casts[0] if len(after) > len(before) else 0


def _foreign_ops(path: Path) -> Counter[tuple[str, str]]:
    model = onnx.load(path, load_external_data=False)
    defined = {(function.domain, function.name) for function in model.functions}
    counts: Counter[tuple[str, str]] = Counter()
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            if (
                node.domain not in _STANDARD and (node.domain, node.op_type) not in defined
            ) or node.op_type == "FusedConv":
                counts[node.domain, node.op_type] += 1
            for attr in node.attribute:
                if attr.HasField("g"):
                    graphs.append(attr.g)
                graphs.extend(attr.graphs)
    return counts
