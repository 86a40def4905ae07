"""How passes and pipelines are listed."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.pipeline.describe import describe
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.spec import Pipeline, load_pipelines

# Where the next line is neither empty nor indented nor an item of a list.
_LINE_END = re.compile(r"(?<=\S)\n(?=[^\s*-])")


def listing(registry: Registry) -> tuple[Any, RenderableType]:
    """All passes and pipelines, as data and as text."""
    classes = registry.load_all()
    owners = {registry.owner(name) for name in classes}
    table = _grid("pass", "numerics", "what it does", *(["from"] if len(owners) > 1 else []))
    data: list[dict[str, Any]] = []
    for name, cls in sorted(classes.items()):
        doc = describe(cls)
        owner = registry.owner(name)
        row = (name, cls.numerics.value, _plain(doc.summary))
        table.add_row(*row, *([owner] if len(owners) > 1 else []))
        data.append({"name": name, "numerics": cls.numerics.value, "summary": doc.summary, "owner": owner})
    pipelines = _grid("pipeline", "passes")
    named = {name: str(pipeline) for name, pipeline in load_pipelines(registry).items()}
    for name, text in sorted(named.items()):
        pipelines.add_row(name, _foldable(text))
    problems = [Text(f"problem: {problem.message}", style="red") for problem in registry.problems]
    content = {
        "passes": data,
        "pipelines": named,
        "problems": [dataclasses.asdict(problem) for problem in registry.problems],
    }
    return content, Group(table, Text(), pipelines, *problems)


def one(registry: Registry, name: str) -> tuple[Any, RenderableType]:
    """One pass or pipeline in full, as data and as text."""
    if registry.is_pipeline(name):
        text = str(Pipeline(name, registry))
        return {"name": name, "pipeline": text}, Text(f"{name}: {_foldable(text)}")
    doc = describe(registry.get(name))
    head = Text(doc.name, style="bold")
    head.append(f"  {registry.owner(name)}\n", style="not bold dim")
    parts: list[RenderableType] = [head, Text(_plain(doc.summary)), Text()]
    if doc.text:
        parts.extend((Text(_plain(doc.text)), Text()))
    parts.append(Text(f"{doc.kind} · {doc.numerics} · opset {doc.min_opset} and up"))
    if doc.example is not None:
        parts.extend((Text("\nExample", style="bold"), Text(str(doc.example))))
    for title, body in doc.sections:
        parts.extend((Text(f"\n{title}", style="bold"), Text(_plain(body))))
    if doc.options:
        table = _grid("option", "type", "default", "meaning")
        for option in doc.options:
            table.add_row(option.name, option.type, option.default, _plain(option.doc))
        parts.extend((Text(), table))
    return dataclasses.asdict(doc), Group(*parts)


def _plain(text: str) -> str:
    """Text of a docstring without its markup, each paragraph as one line, to be folded where it is shown."""
    return _LINE_END.sub(" ", text.replace("``", ""))


def _foldable(pipeline: str) -> str:
    """A pipeline text that can be folded at its commas; it still reads as one."""
    return pipeline.replace(",", ", ")


def _grid(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for place, title in enumerate(titles):
        table.add_column(title, overflow="fold", no_wrap=place == 0)
    return table
