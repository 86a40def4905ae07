"""The pytest plugin: generated models for a pass, and what differs where an ``assert`` compares models.

pytest loads it by its entry point, which has the module's own name: so ``-p graphopt.testing.pytest_plugin``
where graphopt is not installed does no harm where it is. Nothing of graphopt is imported before it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import onnx

    from graphopt.properties.applying import PassSource

MARKER = "graphopt_models"


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marker means."""
    config.addinivalue_line(
        "markers", f"{MARKER}(count=30, seed=0): how many models the fixture gives, and their seed"
    )


@pytest.fixture(name=MARKER)
def generated_models(request: pytest.FixtureRequest) -> Callable[[PassSource], Iterator[onnx.ModelProto]]:
    """Gives generated models that a pass is likely to rewrite; valid ones, the same on every run.

    .. code-block:: python

        @pytest.mark.graphopt_models(count=100)
        def test_holds_on_generated_models(graphopt_models):
            assert any([assert_holds(MyPass, model) for model in graphopt_models(MyPass)])
    """
    marker = request.node.get_closest_marker(MARKER)
    arguments: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    count, seed = int(arguments.get("count", 30)), int(arguments.get("seed", 0))

    def make(step: PassSource) -> Iterator[onnx.ModelProto]:
        from graphopt.fuzzing.generate import models_for

        return models_for(step, count=count, seed=seed)

    return make


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say what differs, where an ``assert`` requires of two models that they are equal."""
    if op != "==" or not (_is_model(left) and _is_model(right)):
        return None
    from graphopt.model import Model
    from graphopt.properties.wording import diff_lines
    from graphopt.rewrite.diff import structural_diff

    models: list[Any] = [left, right]
    lines = list(diff_lines(structural_diff(*(Model.of(each).ir for each in models))))
    return ["the models differ", *(lines or ["in nothing but names, their order, or inferred shapes"])]


def _is_model(value: object) -> bool:
    # Whoever holds a model has imported the module that it comes from.
    onnx = sys.modules.get("onnx")
    ir = sys.modules.get("onnx_ir")
    return (onnx is not None and isinstance(value, onnx.ModelProto)) or (
        ir is not None and isinstance(value, ir.Model)
    )
