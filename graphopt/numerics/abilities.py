"""What the installed ONNX Runtime can do, found out by doing it on tiny models in a worker process."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnxruntime as ort

from graphopt.numerics import served
from graphopt.numerics.runtime import LEVELS, SessionSpec, make, sentence
from graphopt.pipeline.worker import Worker

OLDEST = (1, 18)
"""The first version in which the session entry works that leaves parts of the optimizer out."""
TESTED = (1, 23)
UPDATE = "pip install -U onnxruntime"
_SECONDS = 60.0
_RELU = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { a = Identity(x) y = Relu(a) }'
)
_RAN = re.compile(r"GraphTransformer (\S+) modified: [01]")
_RULE = "EliminateIdentity"


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that ONNX Runtime can do, or cannot.

    Attributes:
        name: What.
        ok: Whether it can.
        detail: What was seen; where it cannot, what to do.
        optional: Whether graphopt works without it, but for what the detail says.
    """

    name: str
    ok: bool
    detail: str
    optional: bool = False


def version() -> Ability:
    """Whether this version is one that graphopt works with."""
    found = tuple(int(part) for part in re.findall(r"\d+", ort.__version__)[:2])
    if found < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        detail = f"{ort.__version__} is too old: {UPDATE} (graphopt needs {wanted} or newer)"
        return Ability("version", False, detail)
    if found < TESTED:
        detail = f"{ort.__version__}; graphopt is tested from {'.'.join(map(str, TESTED))} on: {UPDATE}"
        return Ability("version", False, detail, optional=True)
    return Ability("version", True, ort.__version__)


def examine(worker: Callable[[], AbstractContextManager[Worker]] = Worker) -> list[Ability]:
    """Try what graphopt uses; each probe may crash its process without harm."""
    found = [version()]
    with worker() as process:
        for name, probe, optional, without in _PROBES:
            reply = process.call(f"graphopt.numerics.abilities:{probe.__name__}", timeout=_SECONDS)
            if reply.status == "ok":
                detail = probe_log(reply.output) if probe is log_names else str(reply.value)
                failed = detail.startswith("no ")
                detail = f"{detail}: {without}" if failed else detail
                found.append(Ability(name, not failed, detail, optional))
            else:
                why = sentence(reply.exception or reply.error or reply.status)
                found.append(Ability(name, False, f"{why} {without}", optional))
    return found


def saves() -> str:
    """An optimized graph is written, and runs."""
    with tempfile.TemporaryDirectory(prefix="graphopt-probe-") as folder:
        saved = _saved(Path(folder), SessionSpec("", level="extended"))
        _run(SessionSpec(str(saved)), {"x": np.array([-1, 1], np.float32)}, np.array([0, 1], np.float32))
        ops = [node.op_type for node in onnx.load(saved).graph.node]
    return "yes" if ops == ["Relu"] else f"no optimization in what is saved ({', '.join(ops)})"


def log_names() -> None:
    """The verbose log is written while a model is optimized; see `probe_log`."""
    options = ort.SessionOptions()
    options.log_severity_level = 0
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    model = onnx.parser.parse_model(_RELU).SerializeToString()
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def probe_log(output: str) -> str:
    """How many graph transformers a verbose log names."""
    names = set(_RAN.findall(output))
    return f"{len(names)} graph transformers named" if names else "no names of graph transformers"


def disables() -> str:
    """A rule that is switched off by the session entry does not act, and else acts."""
    with tempfile.TemporaryDirectory(prefix="graphopt-probe-") as folder:
        ops = [
            [node.op_type for node in onnx.load(_saved(Path(folder), spec)).graph.node]
            for spec in (
                SessionSpec("", level="extended"),
                SessionSpec("", level="extended", disabled=(_RULE,)),
            )
        ]
    return "honoured" if ops == [["Relu"], ["Identity", "Relu"]] else "no effect of a disabled rule"


def ort_format() -> str:
    """A model is written in ORT format, and runs."""
    with tempfile.TemporaryDirectory(prefix="graphopt-probe-") as folder:
        saved = _saved(Path(folder), SessionSpec("", level="extended"), "saved.ort")
        _run(SessionSpec(str(saved)), {"x": np.array([-1, 1], np.float32)}, np.array([0, 1], np.float32))
        found = saved.read_bytes()[4:8]
    return "written and read" if found == b"ORTM" else f"no ORT format in what is saved ({found!r})"


def levels() -> str:
    """All levels are there."""
    missing = [level for level, name in LEVELS.items() if not hasattr(ort.GraphOptimizationLevel, name)]
    return f"no level {', '.join(missing)}" if missing else ", ".join(LEVELS)


def outside() -> str:
    """Large weights are written beside the model, and read from there."""
    with tempfile.TemporaryDirectory(prefix="graphopt-probe-") as folder:
        source = Path(folder) / "source.onnx"
        text = (
            '<ir_version: 8, opset_import: ["": 17]> g (float[1024] x) => (float[1024] y) { y = Add(x, w) }'
        )
        model = onnx.parser.parse_model(text)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(1024, dtype=np.float32), "w"))
        onnx.save(model, source)
        target = Path(folder) / "out" / "saved.onnx"
        target.parent.mkdir()
        make(SessionSpec(str(source), level="extended"), str(target))
        beside = target.with_name(f"{target.name}.data")
        if not beside.exists():
            return "no weights beside the saved model"
        zeros = np.zeros(1024, np.float32)
        _run(SessionSpec(str(target)), {"x": zeros}, np.arange(1024, dtype=np.float32))
    return "written and read"


def four_bits() -> str:
    """MatMulNBits multiplies by weights of 4 bits as it should."""
    text = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        g (float[1, 32] x) => (float[1, 8] y)
        { y = com.microsoft.MatMulNBits <K = 32, N = 8, bits = 4, block_size = 32> (x, w, s) }"""
    model = onnx.parser.parse_model(text)
    packed = np.random.default_rng(0).integers(0, 256, size=(8, 1, 16), dtype=np.uint8)
    scales = np.linspace(0.5, 2, 8, dtype=np.float32)
    arrays = {"w": packed, "s": scales}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    # Two weights a byte, the lower half first, around a zero point of 8.
    whole = np.stack([packed[:, 0] & 15, packed[:, 0] >> 4], axis=-1).reshape(8, 32).astype(np.float32) - 8
    x = np.random.default_rng(1).integers(-4, 4, size=(1, 32)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="graphopt-probe-") as folder:
        path = Path(folder) / "four.onnx"
        onnx.save(model, path)
        _run(SessionSpec(str(path)), {"x": x}, x @ (whole * scales[:, None]).T)
    return "MatMulNBits computes right"


def layout() -> str:
    """The blocks of this CPU's layout of images."""
    size = served.block_size()
    return f"blocks of {size} channels at level all" if size else "no blocked layout on this CPU"


def providers() -> str:
    """The providers of this build."""
    return ", ".join(ort.get_available_providers())


def _saved(folder: Path, spec: SessionSpec, name: str = "saved.onnx") -> Path:
    source, target = folder / "source.onnx", folder / name
    onnx.save(onnx.parser.parse_model(_RELU), source)
    make(replace(spec, path=str(source)), str(target))
    return target


def _run(spec: SessionSpec, feeds: dict[str, np.ndarray], expected: np.ndarray) -> None:
    outputs, _ = served.run_values(make(spec), feeds)
    found = outputs["y"]
    if not np.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise ArithmeticError(f"it gives {found.ravel()[:4].tolist()} for {expected.ravel()[:4].tolist()}")


_PROBES: tuple[tuple[str, Callable[[], str | None], bool, str], ...] = (
    ("saving what is optimized", saves, False, f"the pass ort does not work; {UPDATE}"),
    ("names in the verbose log", log_names, False, f"diagnose finds no part of ort; {UPDATE}"),
    ("disabled optimizers", disables, False, f"no part of ort can be left out; {UPDATE}"),
    ("weights beside the model", outside, True, f"models above 2 GB cannot be optimized; {UPDATE}"),
    ("ORT format", ort_format, True, f"-o OUT.ort does not work; {UPDATE}"),
    ("levels", levels, True, f"it comes with onnxruntime 1.22; {UPDATE}"),
    ("4-bit weights", four_bits, True, f"weight-only quantization does not run; {UPDATE}"),
    ("blocked layout", layout, True, "level all is not faster than extended for images"),
    ("providers", providers, True, ""),
)
