"""The example in the docstring of a pass: read, run, and pictured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from graphopt import BadInput, Numerics, OpaquePass, Pass, RewritePass, Rewriter
from graphopt.errors import GraphoptError, PipelineError
from graphopt.model import Model
from graphopt.pipeline.examples import draw_example, example_of, parse_model, picture_of
from graphopt.record.data import NodePicture
from graphopt.testing import assert_example


@dataclass(frozen=True)
class SwapOp(RewritePass[ir.Node]):
    """Replace Abs by another operator.

    Example:
        swap-op{op=Neg}
        g (float[N] x) => (float[N] y) {
            a = Abs (x)
            y = Relu (a)
        }
    """

    name, roots, numerics = "swap-op", ("Abs",), Numerics.LOSSY
    op: str = "Abs"

    def match(self, node: ir.Node) -> ir.Node | None:
        return None if self.op == "Abs" else node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        rw.replace(match.outputs[0], rw.op(self.op, match.inputs, role="other", like=match.outputs[0]))


class _Local(OpaquePass):
    numerics, isolated = Numerics.EXACT, False

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        return model


class Idle(_Local):
    """Do nothing.

    Example:
        g (float[N] x) => (float[N] y) { y = Abs (x) }
    """

    name = "idle"


class Raising(Idle):
    """Fail.

    Example:
        g (float[N] x) => (float[N] y) { y = Abs (x) }
    """

    name = "raising"

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        raise ValueError("no")


class Without(_Local):
    """Have no example."""

    name = "without"


class Python(_Local):
    """Have another kind of example.

    Example:
        >>> Python()
    """

    name = "python"


class Misspelt(_Local):
    """Name an option that there is not.

    Example:
        misspelt{lvel=1}
        g (float[N] x) => (float[N] y) { y = Abs (x) }
    """

    name = "misspelt"


class Invalid(_Local):
    """Have an example that breaks the rules.

    Example:
        g (float[N] x) => (float[N] y) { y = Abs (x, x) }
    """

    name = "invalid"


def test_the_example_runs_with_its_options() -> None:
    picture = draw_example(SwapOp)
    assert picture.before == [
        NodePicture("", "Abs", ["x"], {"a": "float32[N]"}),
        NodePicture("", "Relu", ["a"], {"y": "float32[N]"}, kept=True),
    ]
    assert [(node.op, node.kept) for node in picture.after] == [("Neg", False), ("Relu", True)]
    assert picture.replaced == [("y", "y")]
    assert picture.inputs == {"x": ("float32[N]", "float32[N]")}


def test_the_shapes_of_an_example_are_inferred() -> None:
    example = example_of(SwapOp)
    assert example is not None
    assert [info.name for info in example.before.graph.value_info] == ["a"]
    assert str(example.pipeline) == "swap-op{op=Neg}"


@pytest.mark.parametrize(
    ("cls", "error", "reason"),
    [
        (Without, BadInput, "'without' has no example"),
        (Python, BadInput, "cannot be read"),
        (Misspelt, PipelineError, "lvel"),
        (Idle, GraphoptError, "'idle' does not change its example"),
        (Raising, GraphoptError, "example of 'raising' fails: .*no"),
    ],
)
def test_an_example_that_shows_nothing_is_an_error(
    cls: type[Pass], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        draw_example(cls)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Without, "no section 'Example:'"),
        (Invalid, "Its example is not valid"),
        (Idle, "changes nothing"),
        (Raising, "ValueError: no"),
    ],
)
def test_a_pass_is_held_to_its_example(cls: type[Pass], reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        assert_example(cls)


def test_a_constant_with_other_content_goes_by_another_name() -> None:
    text = "g (float[2] x) => (float[2] y) <float[2] w = {{{}}}> {{ y = Mul (x, w) }}"
    before, after = (Model.of(parse_model(text.format(values))).ir for values in ("1, 2", "3, 4"))
    picture = picture_of(before, after)
    assert picture.constants == {"w": "(1.0, 2.0)", "w (after)": "(3.0, 4.0)"}
    assert [side[0].inputs for side in (picture.before, picture.after)] == [["x", "w"], ["x", "w (after)"]]
    assert not any(node.kept for node in (*picture.before, *picture.after))


def test_a_text_with_a_header_keeps_it() -> None:
    body = "g (float x) => (float y) { y = Abs (x) }"
    opsets: list[Any] = [
        parse_model(text).opset_import[0].version
        for text in (body, f'<ir_version: 8, opset_import: ["" : 13]> {body}')
    ]
    assert opsets == [18, 13]
