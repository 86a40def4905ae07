from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from graphopt.deployment.lines import cpp_lines, python_lines
from graphopt.pipeline.settings import PLAIN, SessionSettings

CPU_ONLY = SessionSettings(
    level="basic",
    threads=2,
    inter_threads=2,
    execution="parallel",
    memory_pattern=False,
    arena=False,
    spinning=False,
    dims=(("N", 2),),
    denotations=(("DATA_CHANNEL", 3),),
    config=(("session.disable_prepacking", "1"),),
    disabled=("EliminateIdentity",),
)
GPU = SessionSettings(
    providers=tuple(f"{name}ExecutionProvider" for name in ("CUDA", "Tensorrt", "QNN", "CPU")),
    provider_options=(
        ("CUDAExecutionProvider", "arena_extend_strategy", "kSameAsRequested"),
        ("CUDAExecutionProvider", "device_id", "0"),
        ("QNNExecutionProvider", "backend_path", 'a"b\\c'),
    ),
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N, C] x) => (float[N, C] y) { y = Relu(x) }'
    made = onnx.parser.parse_model(text)
    made.graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    path = tmp_path / "it's a model.onnx"
    onnx.save(made, path)
    return path


def made_by(lines: list[str]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    return names


@pytest.mark.parametrize("settings", [PLAIN, CPU_ONLY])
def test_the_lines_of_python_make_the_session(settings: SessionSettings, model: Path) -> None:
    session = made_by(python_lines(str(model), settings))["session"]
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_inputs()[0].shape == (["N", "C"] if settings == PLAIN else [2, 3])


def test_the_lines_of_python_say_all(model: Path) -> None:
    options = made_by(python_lines(str(model), CPU_ONLY))["options"]
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not options.enable_mem_pattern
    assert not options.enable_cpu_mem_arena
    for key, value in CPU_ONLY.entries.items():
        assert options.get_session_config_entry(key) == value


def test_providers_and_their_options_are_in_the_lines_of_python() -> None:
    last = python_lines("m.onnx", GPU)[-1]
    assert "('QNNExecutionProvider', {'backend_path': 'a\"b\\\\c'})" in last
    assert "'TensorrtExecutionProvider', (" in last


def test_the_lines_of_cpp() -> None:
    assert cpp_lines("é.onnx", CPU_ONLY) == [
        "#include <onnxruntime_cxx_api.h>",
        "",
        'Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "model");',
        "Ort::SessionOptions options;",
        "options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_BASIC);",
        "options.SetIntraOpNumThreads(2);",
        "options.SetInterOpNumThreads(2);",
        "options.SetExecutionMode(ExecutionMode::ORT_PARALLEL);",
        "options.DisableMemPattern();",
        "options.DisableCpuMemArena();",
        'Ort::ThrowOnError(Ort::GetApi().AddFreeDimensionOverrideByName(options, "N", 2));',
        'Ort::ThrowOnError(Ort::GetApi().AddFreeDimensionOverride(options, "DATA_CHANNEL", 3));',
        'options.AddConfigEntry("session.intra_op.allow_spinning", "0");',
        'options.AddConfigEntry("session.disable_prepacking", "1");',
        'options.AddConfigEntry("optimization.disable_specified_optimizers", "EliminateIdentity");',
        'Ort::Session session(env, ORT_TSTR("é.onnx"), options);',
    ]
    text = "\n".join(cpp_lines("m.onnx", GPU))
    assert 'const char* const cuda_keys[] = {"arena_extend_strategy", "device_id"};' in text
    assert "UpdateCUDAProviderOptions(cuda, cuda_keys, cuda_values, 2));" in text
    assert "options.AppendExecutionProvider_TensorRT_V2(*tensorrt);" in text
    assert 'options.AppendExecutionProvider("QNN", {{"backend_path", "a\\"b\\\\c"}});' in text


@pytest.mark.parametrize("settings", [PLAIN, CPU_ONLY, GPU])
def test_the_lines_of_cpp_compile(settings: SessionSettings) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    command = [compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    include, *rest = cpp_lines("m.onnx", settings)

    def compiled(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, input=code, text=True, capture_output=True, check=False)

    if compiled(include).returncode:
        pytest.skip("no headers of ONNX Runtime: name their folder in CPLUS_INCLUDE_PATH")
    done = compiled("\n".join([include, "void load() {", *rest, "}"]))
    assert not done.returncode, done.stderr
