"""The models that the tests of the passes make, as files: what passes look for, and what it is nearly."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import onnx
import pytest

from graphopt.properties import applying, faults
from tests import support

_LARGEST = 200_000
"""Bytes of a model that is kept: the campaign tries thousands."""


class Harvester:
    """Keeps each model that a test gives to a pass.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._test = ""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note whose models come now."""
        self._test = item.path.stem.removeprefix("test_")

    def keep(self, model: Any) -> None:
        """Write a model, once, if it is small and valid."""
        if not isinstance(model, onnx.ModelProto) or not model.graph.node:
            return
        content = model.SerializeToString(deterministic=True)
        if len(content) > _LARGEST or faults.invalid(model):
            return
        name = f"{self._test}-{hashlib.sha256(content).hexdigest()[:10]}.onnx"
        (self._folder / name).write_bytes(content)


def harvest(folder: Path, tests: Path = Path("tests/passes")) -> list[Path]:
    """Run tests, and keep the models that they give to passes.

    Args:
        folder: Where; made if it is not there.
        tests: Which tests.

    Returns:
        The files.

    Raises:
        RuntimeError: A test failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    harvester = Harvester(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applying, "apply", _keeping(applying.apply, harvester, at=1))
        patch.setattr("graphopt.properties.holding.apply", applying.apply)
        patch.setattr(support, "to_proto", _keeping(support.to_proto, harvester, at=None))
        quiet = "ignore::pytest.PytestAssertRewriteWarning"
        chosen = ["-m", "not slow and not yolo", "-p", "no:cacheprovider", str(tests)]
        code = pytest.main(["-q", "-W", quiet, *chosen], plugins=[harvester])
    if code:
        raise RuntimeError(f"The tests whose models are to be kept failed: pytest gave {code}.")
    return sorted(folder.glob("*.onnx"))


def _keeping(function: Any, harvester: Harvester, at: int | None) -> Any:
    """The function, which also keeps its argument of this number, or what it gives."""

    def keeping(*given: Any, **named: Any) -> Any:
        result = function(*given, **named)
        harvester.keep(result if at is None else given[at])
        return result

    return keeping
