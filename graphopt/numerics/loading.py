"""The result of a run as a plain session loads it, and the session entries that it needs for that."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.model import Model
from graphopt.pipeline.manager import FAILING
from graphopt.pipeline.settings import with_disabled
from graphopt.record.data import AsLoaded, Verdict
from graphopt.rewrite.passes import Pass

if TYPE_CHECKING:
    from graphopt.numerics.check import Checker


RIGHT: tuple[Verdict, ...] = ("identical", "rounding", "within tolerance")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model as a plain session runs it.

    Attributes:
        check: The verdict.
        config: The session entries that it needs for that.
    """

    check: AsLoaded
    config: Mapping[str, str]


@contextmanager
def written(model: Model) -> Generator[Path]:
    """A file that holds ``model`` for a while."""
    with tempfile.TemporaryDirectory(prefix="graphopt-final-") as folder:
        path = Path(folder) / "model.onnx"
        model.write(path, linked=True)
        yield path


@contextmanager
def as_file(model: Model, path: Path | None) -> Generator[tuple[Model, Path]]:
    """A model with its file: the one that it came from, else one that is written for a while."""
    if path is not None:
        yield model, path.absolute()
        return
    with written(model) as scratch:
        yield model, scratch


def check_loaded(
    checker: Checker,
    path: Path,
    steps: Sequence[Pass],
    config: Mapping[str, str],
    switched_off: frozenset[str] = frozenset(),
) -> Loaded:
    """Check a file as it will be loaded.

    Args:
        checker: What checked the passes that made it.
        path: The file.
        steps: These passes.
        config: Session entries that it will be loaded with.
        switched_off: Parts of the runtime's optimizer that the passes left out. Where the runtime redoes
            them when it loads the file, and that is wrong, they become session entries.
    """
    found = checker.as_loaded(path, steps, config)
    if found.verdict not in RIGHT and switched_off:
        entries = with_disabled(config, switched_off)
        again = checker.as_loaded(path, steps, entries)
        if again.verdict in RIGHT or (found.verdict in FAILING and again.verdict not in FAILING):
            return Loaded(again, entries)
    return Loaded(found, config)
