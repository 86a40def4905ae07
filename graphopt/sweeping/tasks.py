"""The tasks of a sweep: which models and pipelines there are, and what decides the result of one."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from graphopt.cluster.sending import Files
from graphopt.errors import BadInput
from graphopt.numerics.options import CheckOptions
from graphopt.pipeline.files import read_pipeline
from graphopt.pipeline.fitting import shared
from graphopt.pipeline.opaque import codes_of
from graphopt.pipeline.registry import Registry
from graphopt.planning import CheckMode, Plan, Policy, make_plan
from graphopt.rewrite.gate import Skip

_OPENING, _CLOSING = "({[", ")}]"


@dataclass(frozen=True)
class Order:
    """One pipeline of a sweep, as it travels.

    Attributes:
        name: What it was called.
        passes: The pipeline as text.
        skips: What is left out.
        options: How results are checked.
        check: When.
        on_failure: What to do when a pass fails.
        files: What its tasks read beside the model: plugins, then inputs.
        plugins: How many of these are plugins.
        modules: The plugins that are modules.
        notes: Sentences for the records.
        code: What its passes are, beside their options.
    """

    name: str
    passes: str
    skips: tuple[Skip, ...]
    options: CheckOptions
    check: CheckMode
    on_failure: Policy
    files: tuple[Files, ...] = ()
    plugins: int = 0
    modules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    code: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, plan: Plan, plugins: Sequence[str | Path]) -> Order:
        """A plan, ready to travel.

        Args:
            name: What its pipeline is called.
            plan: The plan.
            plugins: ``.py`` files or modules with more passes.

        Raises:
            BadInput: It is of one model only, or a file that it reads is not there.
        """
        if plan.options.reference is not None:
            raise BadInput(
                f"The pipeline '{name}' checks its source against {plan.options.reference}, which is of one"
                " model: use 'graphopt run' for that."
            )
        files, modules = plan.parted(plugins)
        # Tasks run side by side: a session of one would take the cores of the others.
        options = dataclasses.replace(plan.options, inputs=(), threads=plan.options.settings.threads or 1)
        return cls(
            name,
            str(plan.pipeline),
            plan.skips,
            options,
            plan.check,
            plan.on_failure,
            tuple(Files.plain(path) for path in (*files, *plan.options.inputs)),
            len(files),
            modules,
            plan.notes,
            codes_of(plan.pipeline),
        )

    def deciding(self) -> bytes:
        """What of it decides a result, always in the same bytes."""
        options = dataclasses.asdict(self.options)
        files = [files.digest for files in self.files]
        parts = [self.passes, sorted(map(str, self.skips)), options, self.check, self.on_failure]
        parts += [files, self.plugins, self.modules, self.code]
        return msgspec.json.encode(parts, order="sorted")


@dataclass(frozen=True)
class Task:
    """One pipeline over one model.

    Attributes:
        model: The path of the model, as it was given.
        order: The pipeline.
        files: The files of the model.
        key: The digest of all that decides the result.
    """

    model: str
    order: Order
    files: Files
    key: str


def key_of(files: Files, order: bytes, versions: Mapping[str, str], measuring: Sequence[Any]) -> str:
    """The digest of all that decides the result of a task.

    Args:
        files: The model.
        order: What decides of its pipeline: `Order.deciding`.
        versions: What is installed where it runs.
        measuring: How its latency is measured.
    """
    parts = [files.digest, order, dict(versions), list(measuring)]
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def find_models(given: Iterable[str | Path]) -> list[Path]:
    """The models that files, folders and patterns name: each once, those of a folder in order.

    Raises:
        BadInput: There is no such file, a folder or pattern has none, or a file is of another kind.
    """
    found: dict[str, Path] = {}
    for each in given:
        for path in _models(Path(each)):
            found.setdefault(str(path.absolute()), path)
    if not found:
        raise BadInput("There is no model to sweep over: name files, folders or patterns.")
    return list(found.values())


def _models(path: Path) -> list[Path]:
    if path.is_dir():
        models = sorted(file for file in path.rglob("*.onnx") if file.is_file())
        if not models:
            raise BadInput(f"There is no .onnx file in the folder {path}.")
        return models
    if not path.exists():
        models = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if not models:
            raise BadInput(f"No such file: {path}")
        return [model for name in models for model in (_models(name) if name.is_dir() else [_an_onnx(name)])]
    return [_an_onnx(path)]


def _an_onnx(path: Path) -> Path:
    if path.suffix != ".onnx":
        raise BadInput(f"{path} is no .onnx file: export it first ('graphopt export').")
    return path


def split_pipelines(texts: Iterable[str]) -> dict[str, str]:
    """Read ``a,b,c.toml`` and ``NAME=TEXT``: pipelines by their names.

    Raises:
        BadInput: Two have one name, or there is none.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        named = bool(equals) and not any(char in name for char in _OPENING + ",")
        for each, content in [(name.strip(), rest)] if named else ((item, item) for item in _items(text)):
            if found.setdefault(each, content) != content:
                raise BadInput(f"Two pipelines have the name '{each}': name one of them as NAME=TEXT.")
    if not found:
        raise BadInput("There is no pipeline to sweep with: name them as --pipelines a,b,c.toml.")
    return found


def _items(text: str) -> Iterator[str]:
    """The parts between commas that stand in no braces."""
    depth, begin = 0, 0
    for place, char in enumerate(f"{text},"):
        depth += (char in _OPENING) - (char in _CLOSING)
        if char == "," and depth <= 0:
            if item := text[begin:place].strip():
                yield item
            begin = place + 1


def make_orders(
    texts: Mapping[str, str],
    plugins: Sequence[str | Path],
    skip: Sequence[str],
    options: Mapping[str, Any],
    check: CheckMode | None,
    on_failure: Policy | None,
    said: Mapping[str, Any],
) -> list[Order]:
    """Read the pipelines of a sweep; see `graphopt.planning.make_plan`.

    Args:
        texts: Names, texts and files by the names that they have in the results.
        plugins: More passes.
        skip: What to leave out of the pipelines that have it.
        options: Options of passes, for the pipelines that have them.
        check: When to check.
        on_failure: The policy.
        said: Fields of the options of the check, over those of files.

    Raises:
        BadInput: Something of it cannot be used.
    """
    registry = Registry.load(tuple(plugins))
    parsed = {name: read_pipeline(text, registry).pipeline for name, text in texts.items()}
    skips, settings = shared(parsed, skip, options)
    return [
        Order.of(
            name, make_plan(text, plugins, skips[name], settings[name], check, on_failure, said), plugins
        )
        for name, text in texts.items()
    ]
