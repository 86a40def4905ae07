"""Where a saved model runs, and what ties it there."""

from __future__ import annotations

import platform
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnx.defs
import onnx_ir as ir

from graphopt.model import Model
from graphopt.numerics.ortformat import SUFFIX
from graphopt.numerics.runtime import Runtime, SessionSpec
from graphopt.record.data import Portability

_BLOCKED = "com.microsoft.nchwc"
_MOST = 4
_FAMILIES = {
    16: "as CPUs with AVX-512 have them",
    8: "as CPUs with AVX or SSE, and without AVX-512, have them",
}


def ties_of(model: Model, runtime: Runtime | None = None) -> tuple[Portability, list[str]]:
    """Where a model runs, and what ties it there, a phrase each.

    Standard is what onnx has an operator schema for, in the version that the model imports: ONNX Runtime
    writes operators into the default domain that an older opset does not have.

    Args:
        model: The model.
        runtime: Tells the blocks of this CPU; None for one of its own.
    """
    foreign = _foreign(model)
    domains = {domain for domain, _ in foreign}
    if _BLOCKED in domains:
        return "this cpu", [_layout(model, foreign, runtime or Runtime()), *_operators(foreign)]
    return ("onnxruntime" if foreign else "any runtime"), _operators(foreign)


def ties_of_packed(content: bytes, runtime: Runtime) -> tuple[Portability, list[str]]:
    """The same of a model in ORT format, which only ONNX Runtime reads."""
    with tempfile.TemporaryDirectory(prefix="graphopt-ties-") as folder:
        packed, plain = Path(folder) / f"model{SUFFIX}", Path(folder) / "model.onnx"
        packed.write_bytes(content)
        # Nothing is optimized in ORT format, so that what comes out is what is in it.
        why = runtime.save(SessionSpec(str(packed)), plain)
        if why:
            return "onnxruntime", ["ORT format", f"what is in it could not be read: {why}"]
        where, ties = ties_of(Model.load(plain), runtime)
    return ("onnxruntime" if where == "any runtime" else where), ["ORT format", *ties]


def _foreign(model: Model) -> Counter[tuple[str, str]]:
    """The operators that no ONNX standard has, by (domain, name)."""
    own = {(function.domain, function.name) for function in model.ir.functions.values()}
    found = Counter[tuple[str, str]]()
    for op, count in model.op_counts().items():
        domain, _, name = op.rpartition("::")
        if (domain, name) not in own and not _is_standard(domain, name, model.ir):
            found[domain, name] += count
    return found


def _is_standard(domain: str, name: str, model: ir.Model) -> bool:
    plain = "" if domain == "ai.onnx" else domain
    imports = [model.opset_imports, *(function.opset_imports for function in model.functions.values())]
    versions = {version for found in imports for key, version in found.items() if key in (plain, domain)}
    return any(onnx.defs.has(name, version, plain) for version in versions)


def _operators(foreign: Counter[tuple[str, str]]) -> list[str]:
    found: list[str] = []
    for domain in sorted({domain for domain, _ in foreign}):
        counts = Counter({name: count for (owner, name), count in foreign.items() if owner == domain})
        shown = ", ".join(f"{count} {name}" for name, count in counts.most_common(_MOST))
        more = f" and {len(counts) - _MOST} more kinds" if len(counts) > _MOST else ""
        place = domain if domain not in ("", "ai.onnx") else "the default domain, whose opset here lacks them"
        found.append(f"{shown}{more} of {place}")
    return found


def _layout(model: Model, foreign: Counter[tuple[str, str]], runtime: Runtime) -> str:
    size = runtime.block_size()
    if size is None:
        return "blocked layout of the CPU that it was made on"
    intel = platform.machine().lower() in ("x86_64", "amd64")
    family = _FAMILIES[size] if intel else "as this CPU has them"
    others = [width for width in _widths(model) if width % size]
    if others:
        return f"blocked layout that is not of this CPU's {size} channels: weights for {others[0]} channels"
    return f"blocked layout in blocks of {size} channels, {family}"


def _widths(model: Model) -> list[int]:
    """The output channels of the blocked Convs, padded to whole blocks."""
    weights = [
        node.inputs[1] for node in model.ir.graph if node.domain == _BLOCKED and node.op_type == "Conv"
    ]
    known = [value.const_value for value in weights if value is not None]
    return [int(tensor.shape.numpy()[0]) for tensor in known if tensor is not None]
