"""What is said of several pipelines at once: each takes what it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphopt.errors import PipelineError
from graphopt.pipeline.spec import Pipeline, validate_skips
from graphopt.rewrite.gate import Skip


def shared(
    pipelines: Mapping[str, Pipeline], skip: Sequence[str], options: Mapping[str, Any]
) -> tuple[dict[str, list[str]], dict[str, dict[str, Any]]]:
    """Which skips and which options each pipeline takes, by its name.

    Args:
        pipelines: The pipelines by name.
        skip: What to leave out of the pipelines that have it.
        options: Options of passes by ``"PASS.OPTION"``, for the pipelines that have them.

    Raises:
        PipelineError: None has what a skip or an option names.
    """
    skips = {name: [text for text in skip if _fits(_skipping(text), name, pipelines)] for name in pipelines}
    settings = {
        name: {key: value for key, value in options.items() if _fits(_setting(key, value), name, pipelines)}
        for name in pipelines
    }
    return skips, settings


def _skipping(text: str) -> Callable[[Pipeline], object]:
    return lambda pipeline: validate_skips([Skip.parse(text)], pipeline)


def _setting(key: str, value: Any) -> Callable[[Pipeline], object]:
    return lambda pipeline: pipeline.with_options({key: value})


def _fits(use: Callable[[Pipeline], object], name: str, pipelines: Mapping[str, Pipeline]) -> bool:
    """Whether something can be said of one pipeline; it must be so of any.

    Raises:
        PipelineError: It can be said of none.
    """
    if _works(use, pipelines[name]):
        return True
    if not any(_works(use, pipeline) for pipeline in pipelines.values()):
        use(pipelines[name])
    return False


def _works(use: Callable[[Pipeline], object], pipeline: Pipeline) -> bool:
    try:
        use(pipeline)
    except PipelineError:
        return False
    return True
