"""The collection of real faults says what is so: each is seen here on the plain tool, without graphopt."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from real_faults import FAULTS, INNOCENT, Innocent, RealFault, feeds, graft

from graphopt_passes import _ort_log

Array = np.ndarray[Any, Any]
Answer = list[Array] | str
_RULE_BASED = frozenset(_ort_log.RULES)
"""Switched off, these take their rules with them: so they stay on."""


def _known(folder: Path) -> frozenset[str]:
    return _ort_log.known_names(folder) - _RULE_BASED


def _components(tool: str) -> frozenset[str]:
    if tool == "onnxslim":
        from onnxslim.core.optimization import OptimizationSettings
        from onnxslim.core.pattern.registry import DEFAULT_FUSION_PATTERNS

        return frozenset(DEFAULT_FUSION_PATTERNS) | (
            frozenset(OptimizationSettings.keys()) - {"graph_fusion"}
        )
    if tool == "onnxoptimizer":
        import onnxoptimizer

        return frozenset(onnxoptimizer.get_fuse_and_elimination_passes())
    if tool == "onnxsim":
        listed = subprocess.run(
            [sys.executable, "-m", "onnxsim", "--list-default-optimizers"],
            capture_output=True,
            text=True,
            check=True,
        )
        return frozenset(listed.stdout.split())
    if tool == "ort-transformers":
        return frozenset(_flags()) - {"shape_inference"}
    from onnxscript import rewriter

    return frozenset(rule.name for rule in vars(rewriter)["_DEFAULT_REWRITE_RULES"] if rule.name)


def _flags() -> dict[str, bool]:
    from onnxruntime.transformers import optimizer

    tool: Any = optimizer
    flags: dict[str, Any] = vars(tool.FusionOptions("bert"))
    return {
        name.removeprefix("enable_"): on for name, on in flags.items() if name.startswith("enable_") and on
    }


def _optimized(tool: str, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
    if tool == "onnxslim":
        import onnxslim
        from onnxslim.core.pattern.registry import DEFAULT_FUSION_PATTERNS

        fusions = frozenset(DEFAULT_FUSION_PATTERNS)
        slim: Any = onnxslim.slim
        return slim(
            model,
            skip_fusion_patterns=sorted(disabled & fusions) or None,
            skip_optimizations=sorted(disabled - fusions) or None,
        )
    if tool == "onnxoptimizer":
        import onnxoptimizer

        passes = [name for name in onnxoptimizer.get_fuse_and_elimination_passes() if name not in disabled]
        return onnxoptimizer.optimize(model, passes) if passes else model
    if tool == "onnxsim":
        import onnxsim

        return onnxsim.simplify(model, skipped_optimizers=sorted(disabled))[0]
    if tool == "ort-transformers":
        from onnxruntime.transformers import optimizer

        fusing: Any = optimizer
        options = fusing.FusionOptions("bert")
        for name in disabled:
            setattr(options, f"enable_{name}", False)
        made: onnx.ModelProto = fusing.optimize_by_fusion(model, "bert", 0, 0, options).model
        if not any(entry.domain == "com.microsoft" for entry in made.opset_import):
            made.opset_import.add(domain="com.microsoft", version=1)
        return made
    from onnxscript import rewriter

    rules = [rule for rule in vars(rewriter)["_DEFAULT_REWRITE_RULES"] if rule.name not in disabled]
    return rewriter.rewrite(model, rules) if rules else model


def _run(data: bytes, given: dict[str, Array], optimize: bool, disabled: frozenset[str]) -> list[Array]:
    options: Any = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    session: Any = ort.InferenceSession(
        data, options, providers=["CPUExecutionProvider"], disabled_optimizers=sorted(disabled) or None
    )
    used = {value.name for value in session.get_inputs()}
    return session.run(None, {name: value for name, value in given.items() if name in used})


def _answer(tool: str, data: bytes, given: dict[str, Array], disabled: frozenset[str] | None) -> Answer:
    """The outputs, or why there are none. ``disabled`` is None for the source as it is."""
    try:
        if disabled is None or tool == "ort":
            return _run(data, given, disabled is not None, disabled or frozenset())
        made = _optimized(tool, onnx.ModelProto.FromString(data), disabled)
        return _run(made.SerializeToString(), given, False, frozenset())
    except Exception as problem:  # whatever the tools raise
        return f"{type(problem).__name__}: {problem}"


def _serve(link: Any) -> None:
    """What a worker does until it crashes: as the tools write to the standard streams, these are shut."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while (call := link.recv()) is not None:
        link.send(_answer(*call))


class _Worker:
    """A process that the faults may crash; another one takes its place then."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._link, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far,), daemon=True)
        self._process.start()
        far.close()

    def ask(self, tool: str, data: bytes, given: dict[str, Array], disabled: frozenset[str] | None) -> Answer:
        self._link.send((tool, data, given, disabled))
        try:
            if self._link.poll(60):
                return self._link.recv()
            self._process.kill()
        except EOFError:
            pass
        self._process.join()
        self._link.close()
        code = self._process.exitcode
        self._start()
        return f"crash {code}"

    def close(self) -> None:
        self._link.send(None)
        self._process.join(10)
        self._link.close()


@pytest.fixture(scope="module")
def worker() -> Iterator[_Worker]:
    made = _Worker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], frozenset[str]]:
    @cache
    def names(tool: str) -> frozenset[str]:
        return _known(tmp_path_factory.mktemp("names")) if tool == "ort" else _components(tool)

    return names


def _effect(source: Answer, got: Answer) -> str:
    """What became of the outputs, in the words of `RealFault.effect`; nothing if they are the same."""
    assert not isinstance(source, str), source
    if isinstance(got, str):
        return "crash" if got.startswith("crash") else "does not run"
    for one, other in zip(source, got, strict=True):
        if one.dtype != other.dtype:
            return "wrong type"
        if one.shape != other.shape:
            return "wrong shape"
        scale = np.max(np.abs(one), initial=0, where=np.isfinite(one))
        if not np.allclose(one, other, rtol=0, atol=0.02 * scale + 1e-6, equal_nan=True):
            return "wrong values"
    return ""


def _skip_unless_installed(fault: RealFault) -> None:
    package = "onnxruntime" if fault.tool.startswith("ort") else fault.tool
    if fault.tool == "ort-transformers":
        pytest.importorskip("sympy")
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    if version not in fault.versions:
        pytest.skip(f"verified with {package} {', '.join(fault.versions)}, not with {version}")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.tool}: {fault.name}")
def test_fault_is_real(fault: RealFault, worker: _Worker, known: Callable[[str], frozenset[str]]) -> None:
    _skip_unless_installed(fault)
    model = fault.build()
    onnx.checker.check_model(model)
    data, given, names = model.SerializeToString(), feeds(model), known(fault.tool)
    source = worker.ask(fault.tool, data, given, None)

    def effect(disabled: frozenset[str]) -> str:
        return _effect(source, worker.ask(fault.tool, data, given, disabled))

    assert effect(frozenset()) == fault.effect
    every = frozenset[str]().union(*fault.culprits)
    assert every <= names
    assert not effect(every)
    for culprits in fault.culprits:
        assert effect(names - culprits), culprits
        for name in culprits:
            assert not effect(names - culprits | {name}), f"{name} is not needed in {culprits}"


@pytest.mark.parametrize("innocent", INNOCENT, ids=lambda innocent: innocent.name)
def test_innocent_is_no_worse_than_its_reason(innocent: Innocent, worker: _Worker) -> None:
    model = innocent.build()
    onnx.checker.check_model(model)
    data, given = model.SerializeToString(), feeds(model)
    source = worker.ask(innocent.tool, data, given, None)
    got = worker.ask(innocent.tool, data, given, frozenset())
    assert not isinstance(source, str)
    assert not isinstance(got, str)
    for one, other in zip(source, got, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=innocent.tolerance, equal_nan=True)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.tool}: {fault.name}")
def test_graft_keeps_the_fault(fault: RealFault, worker: _Worker) -> None:
    _skip_unless_installed(fault)
    if not fault.inside:
        pytest.skip("does not happen inside a bigger model")
    # ONNX can convert the net to a newer operator set, but not to an older one.
    opset = min(18, fault.build().opset_import[0].version)
    model = graft(models.small_net(opset), fault)
    data, given = model.SerializeToString(), feeds(model)
    source = worker.ask(fault.tool, data, given, None)
    got = worker.ask(fault.tool, data, given, frozenset())
    right = worker.ask(fault.tool, data, given, frozenset[str]().union(*fault.culprits))
    assert _largest(source, got) > 20 * _largest(source, right)


def _largest(source: Answer, got: Answer) -> float:
    """The largest difference, over what rounding does; infinite where there are no outputs."""
    assert not isinstance(source, str), source
    if isinstance(got, str):
        return np.inf
    pairs = zip(source, got, strict=True)
    largest = max(float(np.max(np.abs(one.astype(float) - other))) for one, other in pairs)
    return np.inf if np.isnan(largest) else largest + 1e-5
