"""Makes the variants of a tuning by running pipelines, each checked in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.api import run
from graphopt.errors import GraphoptError, PipelineError, PluginError, SourceDiffers
from graphopt.jobs import ModelSource
from graphopt.numerics.loading import RIGHT
from graphopt.pipeline.files import read_pipeline
from graphopt.pipeline.fitting import shared
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.settings import SessionSource
from graphopt.pipeline.spec import Pipeline
from graphopt.record.data import Verdict
from graphopt.results import CheckFailed, Result

SOURCE = "source"
"""The name of the variant that is the model as it came."""


@dataclass
class Made:
    """What came of one pipeline.

    Attributes:
        name: As it was given.
        result: What it made; None where it made nothing.
        why: Why that may not ship; empty where it passes the check.
        failure: The error that carries a failed result.
    """

    name: str
    result: Result | None = None
    why: str = ""
    failure: CheckFailed | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict on it over all checks."""
        return "not checked" if self.result is None else self.result.verdict

    @property
    def passes(self) -> bool:
        """Whether it passes the check, without any doubt."""
        return self.result is not None and not self.why


class Maker:
    """Runs pipelines over one model with what a caller says.

    Args:
        model: The model.
        pipelines: All that will be run, so that what is wrong with one of them shows before the first run.
        skip: What to leave out of the pipelines that have it.
        options: Options of passes, for the pipelines that have them.
        said: Everything else that `graphopt.run` takes.

    Raises:
        PipelineError: A pipeline is wrong, or none has what a skip or an option names.
    """

    def __init__(
        self,
        model: ModelSource,
        pipelines: Sequence[str],
        skip: Sequence[str],
        options: Mapping[str, Any],
        **said: Any,
    ) -> None:
        self._model = model
        self._said = said
        registry = Registry.load(tuple(said["plugins"]))
        parsed = {name: read_pipeline(name, registry).pipeline for name in pipelines}
        self._skips, self._options = shared(parsed, skip, options)

    def make(self, name: str, session: SessionSource | None = None) -> Made:
        """Run one pipeline.

        Args:
            name: One of them, or `SOURCE` for none.
            session: What it will be loaded with, in place of what the caller said.

        Raises:
            GraphoptError: The source cannot be used, or is not what its reference says.
        """
        said: dict[str, Any] = dict(self._said) if session is None else {**self._said, "session": session}
        made = Made(name)
        try:
            if name == SOURCE:
                made.result = run(self._model, Pipeline(), **said)
            else:
                skip, options = self._skips[name], self._options[name]
                made.result = run(self._model, name, skip=skip, options=options, **said)
        except CheckFailed as error:
            if isinstance(error.__cause__, SourceDiffers):
                raise
            made.result, made.why, made.failure = error.result, str(error), error
        except (PipelineError, PluginError):
            raise
        except GraphoptError as error:
            # The source came first: what stops here is about this pipeline.
            if name == SOURCE:
                raise
            made.why = str(error)
        if made.result is not None and not made.why and made.verdict not in RIGHT:
            made.why = f"its verdict is {made.verdict}{_reason(made.result)}"
        return made


def _reason(result: Result) -> str:
    record = result.record
    checks = [entry.check for entry in record.passes if entry.check is not None]
    loaded = [] if record.result is None else [record.result.as_loaded]
    outside = [] if record.reference is None else [record.reference.check]
    said = [
        one.reason for one in (*outside, *checks, *loaded) if one.verdict == result.verdict and one.reason
    ]
    return f": {said[-1]}" if said else ""


def split_names(texts: Sequence[str]) -> list[str]:
    """Read ``a,b,c.toml`` texts of names and files of pipelines.

    Raises:
        PipelineError: One is a pipeline text.
    """
    for text in texts:
        if any(mark in text for mark in "(){}"):
            raise PipelineError(
                f"--pipelines takes names and files, not the text '{text}': say --pipeline for that."
            )
    return [name for text in texts for name in map(str.strip, text.split(",")) if name]
