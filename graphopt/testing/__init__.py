"""What a pass author tests with: models as text, and assertions that run the pass through the real engine.

.. code-block:: python

    from graphopt.testing import assert_declines, assert_rewrites

    def test_it() -> None:
        assert_rewrites(
            EliminateIdentity,
            before="g (float[N] x) => (float[N] y) { a = Identity(x) y = Relu(a) }",
            after="g (float[N] x) => (float[N] y) { y = Relu(x) }",
        )

A failed assertion is a plain ``AssertionError``: no test framework is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.testing.assertions import assert_declines as assert_declines
    from graphopt.testing.assertions import assert_example as assert_example
    from graphopt.testing.assertions import assert_holds as assert_holds
    from graphopt.testing.assertions import assert_rewrites as assert_rewrites
    from graphopt.testing.assertions import assert_same_outputs as assert_same_outputs
    from graphopt.testing.sources import model as model

# Loaded on first use: pytest imports this package, for the plugin in it, at the start of every run.
_HOMES = {
    "assert_declines": "graphopt.testing.assertions",
    "assert_example": "graphopt.testing.assertions",
    "assert_holds": "graphopt.testing.assertions",
    "assert_rewrites": "graphopt.testing.assertions",
    "assert_same_outputs": "graphopt.testing.assertions",
    "model": "graphopt.testing.sources",
}

__all__ = [
    "assert_declines",
    "assert_example",
    "assert_holds",
    "assert_rewrites",
    "assert_same_outputs",
    "model",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'graphopt.testing' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
