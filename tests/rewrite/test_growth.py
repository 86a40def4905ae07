"""What optimizing costs as a model grows, counted in visits and steps of the interpreter, not in time."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt import Model
from graphopt.errors import BadInput
from graphopt.rewrite.driver import Driver
from graphopt.rewrite.links import close, set_inputs
from graphopt.rewrite.workspace import Workspace


def _load_shapes() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "shapes.py"
    spec = importlib.util.spec_from_file_location("growing_shapes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_SHAPES: dict[str, Callable[..., onnx.ModelProto]] = _load_shapes().SHAPES


def _steps(work: Callable[[], object]) -> int:
    """How many lines and calls of Python the work takes: the same on every machine."""
    count = 0

    def trace(_frame: Any, _event: str, _arg: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(former)
    return count


def _run(proto: onnx.ModelProto) -> graphopt.Result:
    return graphopt.run(proto, "exact", check="off", cache=False)


@pytest.mark.parametrize("kind", _SHAPES)
def test_four_times_the_nodes_take_four_times_the_steps(kind: str) -> None:
    small, large = _SHAPES[kind](400), _SHAPES[kind](1600)
    _run(small)  # what is imported and read once does not count
    steps = [_steps(lambda proto=proto: _run(proto)) for proto in (small, large)]
    nodes = [Model.from_proto(proto).node_count() for proto in (small, large)]
    assert steps[1] / steps[0] < 1.15 * nodes[1] / nodes[0]


@pytest.mark.parametrize("kind", _SHAPES)
def test_each_place_is_visited_a_few_times(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    visits: list[object] = []
    visit = Driver._visit  # pyright: ignore[reportPrivateUsage]

    def counted(driver: Driver, place: Any) -> None:
        visits.append(place)
        visit(driver, place)

    monkeypatch.setattr(Driver, "_visit", counted)
    result = _run(_SHAPES[kind](1000))
    passes = len({entry.instance for entry in result.record.passes})
    rewrites = sum(entry.rewrites or 0 for entry in result.record.passes)
    assert result.record.result is not None
    assert result.record.result.nodes < result.record.source.nodes
    assert len(visits) <= 2 * passes * result.record.source.nodes + 8 * rewrites


def test_one_walk_finds_the_nodes_for_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[object] = []
    nodes = Workspace.nodes

    def counted(space: Workspace) -> Iterator[ir.Node]:
        walks.append(space)
        return nodes(space)

    monkeypatch.setattr(Workspace, "nodes", counted)
    entries = _run(_SHAPES["chain"](400)).record.passes
    inserting = [entry for entry in entries if any(site.added for site in entry.sites)]
    assert len(walks) <= 1 + len(inserting) < len(entries) / 2


def test_a_wide_node_is_not_copied_for_each_change() -> None:
    values = [ir.Value(name=f"v{index}") for index in range(100)]
    node = ir.Node("", "Sum", values)
    others = [ir.Value(name=f"w{index}") for index in range(100)]
    assert set_inputs(node, {0: others[0]})
    opened = node.inputs
    for index in range(1, 100):
        set_inputs(node, {index: others[index]})
    assert node.inputs is opened
    close(node)
    assert node.inputs == tuple(others)
    assert all(list(value.uses()) == [(node, index)] for index, value in enumerate(others))
    assert not any(value.uses() for value in values)


def test_wide_nodes_are_as_onnx_ir_has_them_after_a_pass() -> None:
    result = _run(_SHAPES["concat"](2000))
    (wide,) = (node for node in result.model.ir.graph if node.op_type == "Concat")
    assert isinstance(wide.inputs, tuple)
    assert len(wide.inputs) == 200


def test_subgraphs_fifty_deep_are_rewritten() -> None:
    """As deep as no file can hold, which protobuf lets nobody read."""
    proto = _SHAPES["nested"](500, 50)
    result = _run(proto)
    assert result.record.result is not None
    assert result.record.result.nodes < result.record.source.nodes / 2
    assert graphopt.diff(Model.from_proto(proto), result.model)


def test_a_nesting_that_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    result = _run(_SHAPES["nested"](500, 50))
    with pytest.raises(BadInput, match="nested 49 deep"):
        result.save(tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_nested_too_deep_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "deep.onnx"
    path.write_bytes(_SHAPES["nested"](500, 50).SerializeToString())
    with pytest.raises(BadInput, match="nested 49 deep"):
        Model.load(path)


def test_the_deepest_file_goes_through(tmp_path: Path) -> None:
    onnx.save(_SHAPES["nested"](320, 32), tmp_path / "in.onnx")
    result = graphopt.run(tmp_path / "in.onnx", "exact", check="off", cache=False)
    result.save(tmp_path / "out.onnx")
    assert Model.load(tmp_path / "out.onnx").node_count() < result.record.source.nodes


@pytest.mark.slow
@pytest.mark.parametrize("kind", _SHAPES)
def test_a_hundred_thousand_nodes(kind: str) -> None:
    result = _run(_SHAPES[kind](100_000))
    assert result.record.result is not None
    assert result.record.result.nodes < 0.6 * result.record.source.nodes
