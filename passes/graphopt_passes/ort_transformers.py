"""The transformer fusions of onnxruntime.transformers, as a pass."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx

from graphopt import BadInput, MissingExtra, Numerics, OpaquePass, ToolReport
from graphopt_passes import _files, _foreign, _peers

if TYPE_CHECKING:
    from graphopt_passes._transformer_kinds import Kind


@dataclass(frozen=True)
class OrtTransformers(OpaquePass):
    """Fuse attention, norms, Gelus and embeddings of transformers with ``onnxruntime.transformers``.

    The result is that of ``optimize_by_fusion``, without ONNX Runtime's own optimizer in it: where little is
    fused, put ``ort{level=basic}`` before it, as the fusions look for graphs without leftovers. Its
    components are the fusions, by the names of the tool's ``--disable_*`` flags (``attention``,
    ``skip_layer_norm``), and the steps around them that have no flag (``constant_fold``, ``reshape``,
    ``postprocess``). What was fused, what the model was taken for and what the tool complained of are notes.

    Example:
        ort-transformers{model_type=bert}
        g (float[N, 4] x) => (float[N, 4] y)
        <float root = {1.4142135}, float one = {1}, float half = {0.5}> {
            a = Div (x, root)
            b = Erf (a)
            c = Add (b, one)
            d = Mul (x, c)
            y = Mul (d, half)
        }

    Why it pays:
        One node for a whole attention, for a residual with its norm, for a bias with its Gelu: it fuses more
        than ONNX Runtime does by itself when it loads a model, where it knows the exporter's graph. GPUs and
        other tools want such graphs; on a CPU, measure: small encoders were up to 8 % slower, small decoders
        12 % faster than what ONNX Runtime had made of them at load.

    When it does not apply:
        Each fusion knows the graphs that certain versions of PyTorch and transformers export; what torch's
        newer exporter writes is often left alone. The result needs ONNX Runtime where fused operators are
        used, that of ``unet`` and ``vae`` one with a GPU. A model that is no transformer, or of which
        nothing fits, is left as it was. Subgraphs are left alone.

    Numerics:
        Reassociates: fused kernels round differently; Gelu is not approximated. The fusions do not look at
        all that they replace: attention takes any divisor of the scores for the root of the size of a head,
        sum and norm lose the default epsilon. The check after the pass does see it. ``mask=right-padded`` is
        right only for masks that are ones followed by zeros, as the generated feeds are.

    Source:
        onnxruntime.transformers, the successor of onnxruntime-tools. A component is reported where the
        graph is another one after it than before it.

    Attributes:
        model_type: What the fusions expect; ``auto`` looks at the graph.
        num_heads: Heads of an attention, where the graph does not tell; 0 to read it from the graph.
        hidden_size: Width of the model, where the graph does not tell; 0 to read it from the graph.
        mask: ``raw`` for any mask; ``right-padded`` counts its ones instead, which is faster on GPUs.
    """

    name = "ort-transformers"
    numerics = Numerics.REASSOCIATES
    packages = ("onnxruntime", "sympy")

    model_type: Literal[
        "auto", "bart", "bert", "bert_keras", "bert_tf", "clip", "conformer", "gpt2", "gpt2_tf", "gpt_neox",
        "mmdit", "phi", "qwen3", "sam2", "swin", "t5", "tnlr", "unet", "vae", "vit",
    ] = "auto"  # fmt: skip
    num_heads: int = 0
    hidden_size: int = 0
    mask: Literal["raw", "right-padded"] = "raw"

    def components(self) -> frozenset[str]:
        from graphopt_passes import _fusion_watch

        _load()
        return _fusion_watch.components()

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        from graphopt_passes import _fusion_watch, _transformer_kinds

        _peers.refuse_unknown(self.name, disabled, self.components())
        self._refuse_sizes()
        model = onnx.load(source)
        looks_like = _transformer_kinds.detect(model)
        chosen = looks_like.model_type if self.model_type == "auto" else self.model_type
        if chosen is None:
            _files.copy(source, target)
            return ToolReport(notes=(f"left as it was: no model type fits: {looks_like.why}",))
        ops = _foreign.operators(model)
        foreign = _foreign.foreign(model, ops)
        watch = _fusion_watch.Watch(disabled)
        with _Complaints() as complaints, watch.installed():
            fused = self._fuse(model, chosen, looks_like, disabled)
        told = self._told(chosen, looks_like)
        counts = _counts(fused, ops)
        if not counts:
            _files.copy(source, target)
            why = f"left as it was: {told}; no fusion for '{chosen}' fits anything in it"
            return ToolReport(notes=(why, *complaints.notes()))
        made = ", ".join(f"{count} {op}" for op, count in counts.most_common())
        large = sum(len(t.raw_data) for t in fused.model.graph.initializer) > _peers.INSIDE_LIMIT
        fused.save_model_to_file(str(target), use_external_data_format=large)
        after = _files.read_structure(target)
        portability = _foreign.portability(foreign, _foreign.foreign(after, _foreign.operators(after)))
        notes = [told, f"made {made}", *complaints.notes()]
        if chosen == "bert" and self.mask == "right-padded":
            notes.append("masks are counted: that is right for ones followed by zeros and for nothing else")
        return ToolReport(tuple(watch.changed), tuple(notes), portability)

    def _refuse_sizes(self) -> None:
        heads, width = self.num_heads, self.hidden_size
        if heads < 0 or width < 0 or (width and not heads) or (heads and width % heads):
            raise BadInput(
                f"Pass '{self.name}' cannot split hidden-size {width} among num-heads {heads}:"
                " give both, the width a multiple of the heads, or neither."
            )

    def _fuse(self, model: onnx.ModelProto, chosen: str, seen: Kind, disabled: frozenset[str]) -> Any:
        from graphopt_passes import _fusion_watch

        tool = _load()
        if chosen not in tool.MODEL_TYPES:
            known = ", ".join(sorted(tool.MODEL_TYPES))
            raise BadInput(
                f"Pass '{self.name}': this onnxruntime has no fusions for '{chosen}', but for {known}."
            )
        options = tool.FusionOptions(chosen)
        if chosen == "bert" and self.mask == "raw":
            options.use_raw_attention_mask(True)
        _fusion_watch.switch_off(options, disabled)
        sizes = (self.num_heads, self.hidden_size) if self.num_heads else (seen.num_heads, seen.hidden_size)
        return tool.optimize_by_fusion(model, chosen, *sizes, options)

    def _told(self, chosen: str, seen: Kind) -> str:
        found = (
            f"{seen.num_heads} heads in a width of {seen.hidden_size}" if seen.num_heads else "heads unknown"
        )
        if self.model_type == "auto":
            return f"taken for {chosen}: {seen.why}, {found}"
        given = f"model type {chosen} was given"
        if seen.model_type is None:
            return f"{given}, but this does not look like a transformer: {seen.why}"
        if seen.model_type != chosen:
            return f"{given}, but this looks like {seen.model_type}: {seen.why}, {found}"
        return f"{given}, and fits: {seen.why}, {found}"


def _load() -> Any:
    if importlib.util.find_spec("sympy") is None:
        raise MissingExtra("Pass 'ort-transformers' needs sympy: pip install 'graphopt[transformers]'.")
    return importlib.import_module("onnxruntime.transformers.optimizer")


def _counts(fused: Any, before: Counter[_foreign.Operator]) -> Counter[str]:
    """How many fused operators there are more than before."""
    grown = _foreign.operators(fused.model) - before
    return Counter({op: n for (_, op), n in grown.items() if op in fused.get_fused_operator_statistics()})


class _Complaints(logging.Handler):
    """Collects what the tool warns of while the context is open."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard = Counter[str]()

    def __enter__(self) -> _Complaints:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._heard[record.getMessage()] += 1

    def notes(self) -> list[str]:
        return [
            f"onnxruntime.transformers: {text.rstrip('.')}{f' ({count} times)' if count > 1 else ''}"
            for text, count in self._heard.items()
        ]
