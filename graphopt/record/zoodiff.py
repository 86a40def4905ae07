"""What differs between two sweeps, as data."""

from __future__ import annotations

from pathlib import Path

import msgspec

from graphopt.record.rows import TaskRow
from graphopt.record.worse import Finding


class Sweep(msgspec.Struct, frozen=True):
    """A sweep to compare.

    Attributes:
        rows: Its tasks.
        path: The results file, which the records lie beside.
    """

    rows: list[TaskRow]
    path: Path


class Turn(msgspec.Struct):
    """A task that came to something else.

    Attributes:
        model, pipeline: The task.
        before, after: What it came to: its outcome, and what else differs of it.
        worse: Whether the second is worse.
        reason: Why the second is not right, as its row says.
        changes: What else turned in the records, of the first such tasks.
    """

    model: str
    pipeline: str
    before: str
    after: str
    worse: bool
    reason: str = ""
    changes: list[str] = []


class Moved(msgspec.Struct):
    """A figure of a task that is another; None where a sweep does not have it.

    Attributes:
        model, pipeline: The task.
        before, after: The figure: nodes, bytes, or a ratio with the bounds of its interval.
        worse: Whether the second is worse.
    """

    model: str
    pipeline: str
    before: int | tuple[float, float, float] | None
    after: int | tuple[float, float, float] | None
    worse: bool


class Component(msgspec.Struct):
    """A component, or all of a pass, that has an effect in one of the sweeps only.

    Attributes:
        text: Which one, and what turned: ``ort/GeluFusion no longer fires``.
        models: Of how many models.
        pipelines: In which pipelines.
        tasks: Model and pipeline of each.
    """

    text: str
    models: int
    pipelines: list[str]
    tasks: list[tuple[str, str]]


class Totals(msgspec.Struct):
    """One pipeline over the models that have it in both sweeps.

    Attributes:
        pipeline: Its name.
        models: Over how many.
        nodes: Sums of the nodes of the results, first and second.
        bytes: Sums of the sizes of the results.
        ratio: Geometric means of the latency ratios.
        wrong: How many tasks went wrong.
    """

    pipeline: str
    models: int
    nodes: tuple[int, int]
    bytes: tuple[int, int]
    ratio: tuple[float | None, float | None]
    wrong: tuple[int, int]


class SweepDiff(msgspec.Struct):
    """What differs between two sweeps.

    Attributes:
        common: How many tasks both have.
        conditions: One line for each version, pipeline, option or source that differs.
        turned: The tasks that came to something else, the worst first.
        only_a, only_b: The tasks that one sweep has alone.
        nodes, size, latency: Figures that moved, the worse ones first.
        components: What fires or no longer fires, most models first; None where it was not asked for.
        unrecorded: Where components were asked for, the tasks that have a record in the first sweep only.
        pipelines: Sums by pipeline, over common tasks.
        worse: In what the second is worse, of the kinds that were asked for.
    """

    common: int
    conditions: list[str]
    turned: list[Turn]
    only_a: list[tuple[str, str]]
    only_b: list[tuple[str, str]]
    nodes: list[Moved]
    size: list[Moved]
    latency: list[Moved]
    components: list[Component] | None
    unrecorded: list[tuple[str, str]]
    pipelines: list[Totals]
    worse: list[Finding]


def component_text(component: Component) -> str:
    """A component and how many models: ``ort/GeluFusion no longer fires: 12 models (default)``."""
    models = f"{component.models:,} model{'' if component.models == 1 else 's'}"
    return f"{component.text}: {models} ({', '.join(component.pipelines)})"


def moved_text(moved: Moved) -> str:
    """A figure before and after, with its task."""
    return f"{moved.model}, {moved.pipeline}: {_figure(moved.before)} > {_figure(moved.after)}{_share(moved)}"


def _figure(value: int | tuple[float, float, float] | None) -> str:
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value[0]:.3f} ({value[1]:.3f}-{value[2]:.3f})"


def _share(moved: Moved) -> str:
    if isinstance(moved.before, int) and isinstance(moved.after, int):
        return f" ({moved.after - moved.before:+,})"
    return ""
