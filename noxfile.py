"""Tests with other versions of what graphopt needs than the pinned ones: ``nox -s oldest newest``."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["oldest", "newest"]

_TOOLS = ("pytest>=9", "hypothesis>=6.130", "jsonschema>=4.23")
_NOT_THERE = (
    # onnx 1.19 makes its own suite with names that numpy 1.26 does not have.
    "--deselect=tests/test_model.py::test_node_suite_comes_back",
    # ONNX Runtime refuses auto_pad beside pads, and the reference evaluator of onnx 1.19 computes it wrongly.
    "--deselect=tests/passes/test_push_affine.py::test_a_shift_goes_where_nothing_is_padded",
)
# What meets the dependencies: files, sessions, the log of the optimizer, rewrites and their proofs.
_SAMPLE = (
    "tests/test_model.py",
    "tests/test_mapped.py",
    "tests/test_large.py",
    "tests/numerics/test_abilities.py",
    "tests/numerics/test_runtime.py",
    "tests/passes/test_ort.py",
    "tests/passes/test_push_affine.py",
)


@nox.session
def oldest(session: nox.Session) -> None:
    """A sample of the tests with the oldest version of each dependency that pyproject.toml names."""
    session.install("--resolution=lowest-direct", "--only-binary=:all:", "--no-binary=graphopt", "-e", ".")
    session.install(*_TOOLS)
    session.run("graphopt", "doctor")
    session.run("pytest", "-q", "-m", "not slow", *_NOT_THERE, *(session.posargs or _SAMPLE))


@nox.session
def newest(session: nox.Session) -> None:
    """All quick tests with the newest version of each dependency and tool."""
    session.install("--upgrade", "-e", ".[peers,openvino,images]", "pip", "hatchling", *_TOOLS)
    session.run("graphopt", "doctor")
    session.run("pytest", "-q", "-m", "not slow", *(session.posargs or ["tests"]))
