from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from graphopt import Numerics, OpaquePass, RewritePass, Rewriter, SurgeonPass
from graphopt.pipeline.describe import ExampleDoc, OptionDoc, describe, render_reference
from graphopt.pipeline.registry import Entry, Registry

MODEL = """\
g (float[N] x) => (float[N] y) <float zero = {0}> {
    y = Add (x, zero)
}"""


class _Rewrite(RewritePass[Any]):
    numerics = Numerics.EXACT

    def match(self, node: Any) -> None:
        return None

    def rewrite(self, match: Any, rw: Rewriter) -> None: ...


@dataclass(frozen=True)
class Documented(_Rewrite):
    """Replace ``Add(x, 0)``
    by ``x``.

    As every compiler does:
    no section this.

    Example:
        documented{level=all}
        g (float[N] x) => (float[N] y) <float zero = {0}> {
            y = Add (x, zero)
        }

    Why it pays:
        One kernel less.

        Sometimes two.

    Source:
        The ONNX specification.

    Attributes:
        level: How far to go; a sentence
            that goes on.
        count (int): How often: at most.
    """

    name, roots, min_opset = "documented", ("Add", "com.microsoft::Gelu"), 13
    level: Literal["basic", "all"] = "basic"
    count: int | None = None
    words: tuple[str, ...] = ("a|b",)
    noted: bool = field(default=True, metadata={"doc": "From the field."})
    silent: float = 1.0


@dataclass(frozen=True)
class Bare(SurgeonPass):
    name, numerics = "bare", Numerics.LOSSY
    size: int = 1

    def surgery(self, graph: Any) -> None: ...


class Tool(OpaquePass):
    """Run a tool.

    Example:
        g (float x) => (float y) { y = Neg (x) }
    """

    name, numerics = "tool", Numerics.REASSOCIATES

    def transform(self, model: Any, disabled: frozenset[str]) -> Any:
        return model


def test_what_a_docstring_says() -> None:
    doc = describe(Documented)
    assert doc.name == "documented"
    assert doc.summary == "Replace ``Add(x, 0)`` by ``x``."
    assert doc.text == "As every compiler does:\nno section this."
    assert doc.kind == "rewrites one site at a time"
    assert doc.numerics == "exact: bit for bit the same outputs"
    assert (doc.min_opset, doc.roots) == (13, ("Add", "com.microsoft::Gelu"))
    assert doc.example == ExampleDoc("documented{level=all}", MODEL)
    assert str(doc.example) == f"documented{{level=all}}\n{MODEL}"
    assert doc.sections == (
        ("Why it pays", "One kernel less.\n\nSometimes two."),
        ("Source", "The ONNX specification."),
    )
    assert doc.options == (
        OptionDoc("level", "basic or all", "basic", "How far to go; a sentence that goes on."),
        OptionDoc("count", "an integer or none", "none", "How often: at most."),
        OptionDoc("words", "a list [a text, ...]", "[a|b]", ""),
        OptionDoc("noted", "true or false", "true", "From the field."),
        OptionDoc("silent", "a number", "1.0", ""),
    )


def test_a_class_without_a_docstring() -> None:
    doc = describe(Bare)
    assert (doc.summary, doc.text, doc.sections, doc.example) == ("", "", (), None)
    assert doc.kind == "edits the whole graph with GraphSurgeon"
    assert [option.name for option in doc.options] == ["size"]


def test_a_docstring_is_not_inherited() -> None:
    class Child(Tool):
        name = "child"

    assert describe(Child).summary == ""
    assert describe(Tool).summary == "Run a tool."


def missing() -> object:
    raise ImportError("no acme")


def test_the_reference() -> None:
    registry = Registry(
        [
            Entry(cls.name, "pass", f"acme:{cls.name}", "acme 1.0", lambda cls=cls: cls)
            for cls in (Documented, Tool)
        ]
        + [
            Entry("broken", "pass", "acme:Broken", "acme 1.0", missing),
            Entry("both", "pipeline", "acme:BOTH", "acme 1.0", lambda: "tool,fixpoint(documented){max=3}"),
            Entry("bad", "pipeline", "acme:BAD", "acme 1.0", lambda: "tool,broken"),
        ]
    )
    text = render_reference(registry, {"documented": "![before](a.svg)\n![after](b.svg)"})
    assert (
        text
        == """\
# Passes

| pass | what it does | numerics |
| --- | --- | --- |
| [documented](#documented) | Replace ``Add(x, 0)`` by ``x``. | exact |
| [tool](#tool) | Run a tool. | reassociates |

## documented

Replace ``Add(x, 0)`` by ``x``.

![before](a.svg)
![after](b.svg)

<details markdown="1">
<summary>The example as ONNX text</summary>

The model before, for `documented{level=all}`:

```text
g (float[N] x) => (float[N] y) <float zero = {0}> {
    y = Add (x, zero)
}
```

</details>

From acme; rewrites one site at a time. Numerics: exact: bit for bit the same outputs. Looks at `Add`, \
`com.microsoft::Gelu`. Needs opset 13 or higher.

As every compiler does:
no section this.

**Why it pays.** One kernel less.

Sometimes two.

| option | takes | default | |
| --- | --- | --- | --- |
| `level` | basic or all | `basic` | How far to go; a sentence that goes on. |
| `count` | an integer or none | `none` | How often: at most. |
| `words` | a list [a text, ...] | `[a\\|b]` |  |
| `noted` | true or false | `true` | From the field. |
| `silent` | a number | `1.0` |  |

**Source.** The ONNX specification.

## tool

Run a tool.

<details markdown="1">
<summary>The example as ONNX text</summary>

The model before:

```text
g (float x) => (float y) { y = Neg (x) }
```

</details>

From acme; changes the whole model at once. Numerics: reassociates: rounding may differ.

# Pipelines

## both

From acme.

```
tool,
fixpoint(documented){max=3}
```
"""
    )
    assert [problem.name for problem in registry.problems] == ["broken", "bad"]
    assert "Pipeline 'bad' of acme 1.0 cannot be used: The pass 'broken'" in registry.problems[1].message
