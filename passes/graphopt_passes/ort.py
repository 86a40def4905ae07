"""ONNX Runtime's own graph optimizer, as a pass."""

from __future__ import annotations

import contextlib
import difflib
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from graphopt import BadInput, Numerics, OpaquePass, SessionSettings, Signature, ToolReport
from graphopt_passes import _files, _foreign

_OUTSIDE_ABOVE = 1_500_000_000


@dataclass(frozen=True)
class Ort(OpaquePass):
    """Let ONNX Runtime optimize the model and save what it made.

    Example:
        g (float[N, 4] x) => (float[N, 4] y)
        <float root = {1.4142135}, float one = {1}, float half = {0.5}> {
            a = Div (x, root)
            b = Erf (a)
            c = Add (b, one)
            d = Mul (x, c)
            y = Mul (d, half)
        }

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
        level: How far to go: ``disable`` (it only splits what it has no kernel for), ``basic``,
            ``extended``, ``layout`` or ``all``.
        dims: Sizes to fix symbolic dims to, by name: ONNX Runtime's free-dimension overrides.
        session: More settings and entries of the session that optimizes, as ``--session`` takes them:
            ``[optimization.enable_gelu_approximation=1]``, or ``[providers=CUDAExecutionProvider]``.
    """

    name = "ort"
    numerics = Numerics.REASSOCIATES
    packages = ("onnxruntime",)
    holds_weights = True
    only_reads = True
    acts_at_load = True

    level: Literal["disable", "basic", "extended", "layout", "all"] = "extended"
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    session: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def signature(self) -> Signature:
        return Signature(changes=bool(self.dims), dims=self.dims)

    def settings(self) -> SessionSettings:
        """How the session is made that optimizes.

        Raises:
            BadInput: A setting does not exist, or cannot be said here.
        """
        said = SessionSettings.of(self.session)
        if said.dims or said.denotations or said.level or said.disabled:
            raise BadInput("Pass 'ort' has the options level and dims, and --skip for what is switched off.")
        return replace(said, level=self.level, dims=tuple(sorted(self.dims.items())))

    def components(self) -> frozenset[str]:
        from graphopt_passes import _ort_log

        with tempfile.TemporaryDirectory(prefix="ort-") as folder:
            return _ort_log.known_names(Path(folder))

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        from graphopt_passes import _ort_log

        return _ort_log.RULES

    def suspects(self, output: str) -> tuple[str, ...]:
        from graphopt_passes import _ort_log

        return _ort_log.last_applied(output)

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        from graphopt_passes import _ort_log

        _refuse_unknown(disabled, target.parent)
        before = _Content.of(source)
        for name in sorted(self.dims.keys() - before.dims):
            there = ", ".join(sorted(before.dims)) or "none"
            raise BadInput(f"Pass 'ort': no input has a symbolic dim '{name}'; there are {there}.")
        settings = self.settings()

        def optimized(*, outside: bool) -> str:
            options = _ort_log.verbose_options(settings)
            options.optimized_model_filepath = str(target)
            if outside:
                prefix = "session.optimized_model_external_initializers"
                options.add_session_config_entry(f"{prefix}_file_name", f"{target.name}.data")
                options.add_session_config_entry(f"{prefix}_min_size_in_bytes", "1024")
            return _ort_log.captured(
                lambda: _ort_log.optimize(str(source), options, disabled, settings), target.parent
            )

        # Weights that lie outside stay there, unread; but a message holds no more than 2 GB of others.
        log = ""
        if before.files:
            with contextlib.suppress(Exception):  # it cannot be written so, or at all, which is seen below
                log = optimized(outside=False)
        if before.files and log and (after := _Content.of(target)).files <= before.files:
            _files.bring_data(after.files, source, target, linked=True)
        else:
            log = optimized(outside=bool(before.files) or source.stat().st_size > _OUTSIDE_ABOVE)
            after = _Content.of(target)
        modified = _ort_log.modified(log)
        if "CastFloat16Transformer" in modified and after.nodes > before.nodes and after.casts > before.casts:
            target.with_name(f"{target.name}.data").unlink(missing_ok=True)
            _files.copy(source, target, linked=True)
            return ToolReport(
                notes=(
                    f"left as it was: ONNX Runtime would insert {after.casts - before.casts} Casts around"
                    " operators that it has no kernel of this type for on this CPU",
                )
            )
        always = [name for name in modified if name in _ort_log.MANDATORY]
        notes = [f"{count} {_label(op)}" for op, count in (after.foreign - before.foreign).most_common()]
        if always:
            notes.append(f"{', '.join(always)} changed the model too and cannot be switched off")
        components = tuple(name for name in modified if name not in _ort_log.MANDATORY)
        return ToolReport(components, tuple(notes), _foreign.portability(before.foreign, after.foreign))


@dataclass(frozen=True)
class _Content:
    """What the pass needs of a file: nodes, Casts, operators that ONNX lacks, files of weights, dims."""

    nodes: int
    casts: int
    foreign: Counter[tuple[str, str]]
    files: frozenset[str]
    dims: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> _Content:
        model = _files.read_structure(path)
        ops = _foreign.operators(model)
        casts = ops["", "Cast"] + ops["ai.onnx", "Cast"]
        shapes = [info.type.tensor_type.shape for info in model.graph.input]
        dims = frozenset(dim.dim_param for shape in shapes for dim in shape.dim if dim.dim_param)
        return cls(ops.total(), casts, _foreign.foreign(model, ops), _files.data_files(model), dims)


def _label(op: tuple[str, str]) -> str:
    return f"{op[1]} in blocked layout" if op[0] == _foreign.BLOCKED else op[1]


def _refuse_unknown(disabled: frozenset[str], folder: Path) -> None:
    if not disabled:
        return
    from graphopt_passes import _ort_log

    known = _ort_log.known_names(folder)
    for name in sorted(disabled - known):
        if name in _ort_log.MANDATORY:
            raise BadInput(f"Pass 'ort' cannot switch '{name}' off: ONNX Runtime runs it in any case.")
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(sorted(known))}."
        raise BadInput(f"Pass 'ort' has no component '{name}': {hint}")
