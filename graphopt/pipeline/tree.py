"""The parts of a pipeline: a pass at its place, and passes that are repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import msgspec

from graphopt.errors import GraphoptError, PipelineError
from graphopt.pipeline.grammar import render_options
from graphopt.pipeline.names import did_you_mean, one_of
from graphopt.pipeline.options import Option, options_of
from graphopt.pipeline.plugins import check_pass
from graphopt.rewrite.passes import Pass

MOST_ROUNDS = 32
MAX_ROUNDS = Option("fixpoint", "max", Annotated[int, msgspec.Meta(ge=1)], MOST_ROUNDS)
FIXPOINT = "fixpoint"


@dataclass(frozen=True, slots=True)
class Step:
    """A pass at its place in a pipeline.

    Attributes:
        step: The pass with its options.
        instance: Its name, with ``#2`` appended at its second use in the pipeline.
    """

    step: Pass
    instance: str

    def __str__(self) -> str:
        return self.step.name + render_options(self.step.changed_options())


@dataclass(frozen=True, slots=True)
class Fixpoint:
    """Passes that are repeated until a whole round changes nothing.

    Attributes:
        steps: The passes of a round.
        max: The most rounds; the manager fails where the last of them still changes the model.
    """

    steps: tuple[Step, ...]
    max: int = MOST_ROUNDS

    @classmethod
    def of(cls, *passes: Pass, max: int = MOST_ROUNDS) -> Fixpoint:
        """A fixpoint over these passes, for a `Pipeline` made in Python."""
        return cls(tuple(Step(step, step.name) for step in passes), max)

    def __str__(self) -> str:
        options = {} if self.max == MOST_ROUNDS else {"max": self.max}
        return f"{FIXPOINT}({','.join(map(str, self.steps))}){render_options(options)}"


Item: TypeAlias = "Step | Fixpoint"


def flat(items: Iterable[Item]) -> Iterator[Step]:
    """The passes in order, those of fixpoints once."""
    for item in items:
        if isinstance(item, Fixpoint):
            yield from item.steps
        else:
            yield item


def numbered(items: Iterable[Item]) -> tuple[Item, ...]:
    """The same with instance names: ``name``, and ``name#2`` at its second use."""
    used: Counter[str] = Counter()

    def number(step: Step) -> Step:
        name = step.step.name
        used[name] += 1
        return Step(step.step, f"{name}#{used[name]}" if used[name] > 1 else name)

    return tuple(
        Fixpoint(tuple(map(number, item.steps)), item.max) if isinstance(item, Fixpoint) else number(item)
        for item in items
    )


def checked(step: Pass) -> Step:
    """A pass that was made in Python, with its class and its options checked as those of a text are.

    Raises:
        PipelineError: An option is of another type.
        PluginError: The class is not a proper pass.
    """
    check_pass(type(step))
    options = step.options()
    accepted = {name: option.accept(options[name]) for name, option in options_of(type(step)).items()}
    return Step(step if accepted == options else made(type(step), accepted), step.name)


def made(cls: type[Pass], options: Mapping[str, Any]) -> Pass:
    """The pass with these options.

    Raises:
        PipelineError: The pass refuses them.
    """
    try:
        return cls(**options)
    except GraphoptError:
        raise
    except Exception as error:
        changed = render_options(options)
        raise PipelineError(
            f"Pass '{cls.name}' refuses the options {changed}: {str(error).rstrip('.')}."
        ) from error


def find_option(cls: type[Pass], name: str, what: str) -> Option:
    """An option of a pass by name, in which dashes may stand for underscores.

    Raises:
        PipelineError: There is none; the message begins with ``what``.
    """
    known = options_of(cls)
    found = known.get(name.replace("-", "_"))
    if found is not None:
        return found
    has = one_of(list(known), "and")
    has = "it has no options" if not has else f"its options are {has}" if len(known) > 1 else f"it has {has}"
    raise PipelineError(
        f"{what}: pass '{cls.name}' has no option '{name}': {did_you_mean(name, known)}{has}."
    )
