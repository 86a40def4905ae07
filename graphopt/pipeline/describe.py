"""What a pass says of itself: for ``graphopt passes NAME`` and for the generated reference."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from graphopt.pipeline.grammar import render
from graphopt.pipeline.options import options_of, type_text
from graphopt.pipeline.registry import Entry, Registry
from graphopt.pipeline.spec import Pipeline, load_pipelines
from graphopt.rewrite.passes import Numerics, OpaquePass, Pass, RewritePass, SurgeonPass

_SECTION = re.compile(r"^(?P<title>[A-Z][^:]*):$")
_ITEM = re.compile(r"^(?P<name>\w+)(?: \([^)]*\))?: (?P<text>.*)$")
_OPTION_SECTIONS = ("Attributes", "Args")
_EXAMPLE, _SOURCE = "Example", "Source"
_APART = (*_OPTION_SECTIONS, _EXAMPLE)
_KINDS = (
    (RewritePass, "rewrites one site at a time"),
    (SurgeonPass, "edits the whole graph with GraphSurgeon"),
    (OpaquePass, "changes the whole model at once"),
)
_NUMERICS = {
    Numerics.EXACT: "exact: bit for bit the same outputs",
    Numerics.REASSOCIATES: "reassociates: rounding may differ",
    Numerics.LOSSY: "lossy: values change on purpose",
}


@dataclass(frozen=True, slots=True)
class OptionDoc:
    """An option as a reader wants it: its name, what it takes, its default as text, what it means."""

    name: str
    type: str
    default: str
    doc: str


@dataclass(frozen=True, slots=True)
class ExampleDoc:
    """The section ``Example:`` of a docstring.

    Attributes:
        step: The pass with the options of the example, as a pipeline has it. A first line says so
            (``fix-dims{batch=1}``) where the pass needs any.
        model: The model before, as ONNX text. What the pass makes of it is nowhere written by hand.
    """

    step: str
    model: str

    def __str__(self) -> str:
        return self.model if "{" not in self.step else f"{self.step}\n{self.model}"


@dataclass(frozen=True, slots=True)
class PassDoc:
    """What there is to know about a pass.

    Attributes:
        name: Its name.
        summary: The first paragraph of its docstring, on one line.
        kind: How it changes a model, in words.
        numerics: What it may do to the values, in words.
        min_opset: The lowest default opset that it works on.
        roots: The operators where it may match; empty for a pass that changes the whole model.
        text: The paragraphs of the docstring after the first, before any section.
        sections: Title and text of each section of the docstring, except those of the options and of the
            example.
        options: Its options.
        example: A model that shows it at its best.
    """

    name: str
    summary: str
    kind: str
    numerics: str
    min_opset: int
    roots: tuple[str, ...]
    text: str
    sections: tuple[tuple[str, str], ...]
    options: tuple[OptionDoc, ...]
    example: ExampleDoc | None = None


def describe(cls: type[Pass]) -> PassDoc:
    """What the class and its docstring say.

    An option is documented in the section ``Attributes:`` or ``Args:`` of the class's docstring, or by
    ``field(metadata={"doc": ...})``. The section ``Example:`` is a model as ONNX text.
    """
    body, sections = _sections(_docstring(cls))
    documented = {
        name: text
        for title, content in sections
        if title in _OPTION_SECTIONS
        for name, text in _items(content)
    }
    summary, _, text = body.partition("\n\n")
    return PassDoc(
        name=cls.name,
        summary=_joined(summary),
        kind=next(words for kind, words in _KINDS if issubclass(cls, kind)),
        numerics=_NUMERICS[cls.numerics],
        min_opset=cls.min_opset,
        roots=cls.roots if issubclass(cls, RewritePass) else (),
        text=text.strip(),
        sections=tuple((title, content) for title, content in sections if title not in _APART),
        options=tuple(
            OptionDoc(
                option.name,
                type_text(option.type),
                render(option.default),
                documented.get(option.name, option.doc),
            )
            for option in options_of(cls).values()
        ),
        example=next((_example(cls.name, text) for title, text in sections if title == _EXAMPLE), None),
    )


def _example(name: str, text: str) -> ExampleDoc:
    first, _, rest = text.partition("\n")
    return ExampleDoc(first, rest) if first.startswith(f"{name}{{") else ExampleDoc(name, text)


def _docstring(cls: type[Pass]) -> str:
    text = vars(cls).get("__doc__") or ""
    # A dataclass without a docstring is given its signature as one.
    return "" if text.startswith(f"{cls.__name__}(") else inspect.cleandoc(text)


def _sections(text: str) -> tuple[str, list[tuple[str, str]]]:
    body: list[str] = []
    sections: list[tuple[str, list[str]]] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        following = next((later for later in lines[number + 1 :] if later.strip()), "")
        if (found := _SECTION.match(line)) and following.startswith(" "):
            sections.append((found["title"], []))
        elif not sections:
            body.append(line)
        else:
            sections[-1][1].append(line)
    return "\n".join(body).strip(), [(title, _dedented(content)) for title, content in sections]


def _dedented(lines: Sequence[str]) -> str:
    # The empty line in front keeps cleandoc from treating the first line apart.
    return inspect.cleandoc("\n" + "\n".join(lines))


def _items(text: str) -> Iterable[tuple[str, str]]:
    name, words = "", list[str]()
    for line in text.splitlines():
        if found := _ITEM.match(line):
            if name:
                yield name, _joined(" ".join(words))
            name, words = found["name"], [found["text"]]
        else:
            words.append(line)
    if name:
        yield name, _joined(" ".join(words))


def _joined(text: str) -> str:
    return " ".join(text.split())


def render_reference(registry: Registry, drawings: Mapping[str, str] = MappingProxyType({})) -> str:
    """The reference of all passes and pipelines, as Markdown.

    What does not load is left out: the caller looks at ``registry.problems`` afterwards.

    Args:
        registry: The passes and pipelines.
        drawings: Of passes whose example is drawn, the drawing as Markdown.
    """
    classes, pipelines = registry.load_all(), load_pipelines(registry)
    owners = {entry.name: _package(entry) for entry in (*registry.passes(), *registry.pipelines())}
    parts = ["# Passes", _table(classes.values())]
    parts += [
        _pass_section(describe(cls), owners[name], drawings.get(name, ""))
        for name, cls in sorted(classes.items())
    ]
    parts.append("# Pipelines")
    parts += [_pipeline_section(name, found, owners[name]) for name, found in sorted(pipelines.items())]
    return "\n\n".join(parts) + "\n"


def _package(entry: Entry) -> str:
    # Without the version, so that the page does not change with every release.
    return entry.owner if entry.plugin else entry.owner.rpartition(" ")[0]


def _table(classes: Iterable[type[Pass]]) -> str:
    rows = ["| pass | what it does | numerics |", "| --- | --- | --- |"]
    for doc in sorted(map(describe, classes), key=lambda doc: doc.name):
        numerics = doc.numerics.partition(":")[0]
        rows.append(f"| [{doc.name}](#{doc.name}) | {_cell(doc.summary)} | {numerics} |")
    return "\n".join(rows)


def _pass_section(doc: PassDoc, owner: str, drawing: str) -> str:
    facts = [f"From {owner}; {doc.kind}.", f"Numerics: {doc.numerics}."]
    if doc.roots and doc.roots != ("*",):
        facts.append(f"Looks at {', '.join(f'`{root}`' for root in doc.roots)}.")
    if doc.min_opset > 1:
        facts.append(f"Needs opset {doc.min_opset} or higher.")
    parts = [f"## {doc.name}", doc.summary, drawing, _example_block(doc), " ".join(facts), doc.text]
    parts += [f"**{title}.** {content}" for title, content in doc.sections if title != _SOURCE]
    parts.append(_options_table(doc.options))
    parts += [f"**{title}.** {content}" for title, content in doc.sections if title == _SOURCE]
    return "\n\n".join(part for part in parts if part)


def _example_block(doc: PassDoc) -> str:
    if doc.example is None:
        return ""
    with_options = f", for `{doc.example.step}`" if doc.example.step != doc.name else ""
    # GitHub takes Markdown between HTML tags as it is; the site needs to be told so.
    return (
        '<details markdown="1">\n'
        "<summary>The example as ONNX text</summary>\n\n"
        f"The model before{with_options}:\n\n"
        f"```text\n{doc.example.model}\n```\n\n"
        "</details>"
    )


def _options_table(options: Sequence[OptionDoc]) -> str:
    if not options:
        return ""
    rows = ["| option | takes | default | |", "| --- | --- | --- | --- |"]
    rows += [f"| `{o.name}` | {_cell(o.type)} | `{_cell(o.default)}` | {_cell(o.doc)} |" for o in options]
    return "\n".join(rows)


def _pipeline_section(name: str, pipeline: Pipeline, owner: str) -> str:
    text = ",\n".join(map(str, pipeline.items))
    return f"## {name}\n\nFrom {owner}.\n\n```\n{text}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
