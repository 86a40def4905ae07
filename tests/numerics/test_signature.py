from __future__ import annotations

import onnx.parser
import pytest

from graphopt.model import Model
from graphopt.numerics.signature import Promise, loose_faults, metadata_faults, signature_faults
from graphopt.rewrite.passes import Signature

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'


def model(text: str, header: str = HEADER) -> Model:
    return Model.from_proto(onnx.parser.parse_model(f"{header} {text}"))


TAIL = "{ y = Neg(x) z = Cast<to = 1>(i) }"
SOURCE = "main (float[N, 3] x, int64[N] i) => (float[N, 3] y, float[N] z) { y = Neg(x) z = Cast<to = 1>(i) }"


@pytest.mark.parametrize(
    ("text", "words", "loose"),
    [
        (
            "main (float[N, 3] x) => (float[N, 3] y, float[N] z) { y = Neg(x) z = ReduceMax(x) }",
            "lost the input 'i'",
            True,
        ),
        (
            "main (int64[N] i, float[N, 3] x) => (float[N, 3] y, float[N] z) " + TAIL,
            "the inputs come in another order: i, x for x, i",
            True,
        ),
        (
            "main (float[N, 3] x, int64[N] i) => (float[N, 3] y, float[N] w) " + TAIL.replace("z", "w"),
            "lost the output 'z' and got a new output 'w'",
            True,
        ),
        (
            "main (float[N, 3] x, int64[N] i) => (float[N, 3] y, double[N] z) " + TAIL.replace("1", "11"),
            "the output z double[N] was z float[N]",
            True,
        ),
        (
            "main (float[1, 3] x, int64[N] i) => (float[N, 3] y, float[N] z) " + TAIL,
            "the input x float[1,3] was x float[N,3]",
            False,
        ),
        (
            "main (float[N, 4] x, int64[N] i) => (float[N, 3] y, float[N] z) " + TAIL,
            "the input x float[N,4] was x float[N,3]",
            True,
        ),
    ],
)
def test_faults(text: str, words: str, loose: bool) -> None:
    source, candidate = Promise.of(model(SOURCE)), model(text)
    assert words in "; ".join(signature_faults(source, candidate))
    assert (words in "; ".join(loose_faults(source, candidate))) == loose


def test_a_faithful_copy_has_none() -> None:
    assert signature_faults(Promise.of(model(SOURCE)), model(SOURCE)) == []


def test_frozen_dims_are_expected_of_inputs_and_allowed_in_outputs() -> None:
    change = Signature(changes=True, dims={"N": 2})
    frozen = model(SOURCE.replace("[N", "[2"))
    assert signature_faults(Promise.of(model(SOURCE)), frozen, [change]) == []
    assert signature_faults(Promise.of(model(SOURCE)), model(SOURCE), [change]) != []
    assert signature_faults(Promise.of(model(SOURCE)), model(SOURCE.replace("[N", "[7")), [change]) != []


def test_a_pass_that_maps_feeds_answers_for_the_inputs() -> None:
    text = "main (uint8[N, 3] x8) => (float[N, 3] y, float[N] z) { y = Cast<to = 1>(x8) z = ReduceMax(y) }"
    change = Signature(changes=True, feeds=lambda feeds: feeds, outputs=lambda outputs: outputs)
    assert signature_faults(Promise.of(model(SOURCE)), model(text), [change]) == []


def test_metadata_must_stay() -> None:
    source, candidate = model(SOURCE), model(SOURCE)
    source.ir.metadata_props.update({"names": "{0: 'cat'}", "stride": "32"})
    candidate.ir.metadata_props.update({"stride": "16", "added": "by a tool"})
    expected = ["the metadata 'names' and 1 more is lost or changed"]
    assert metadata_faults(Promise.of(source), candidate) == expected
    assert signature_faults(Promise.of(source), candidate) == expected


def test_an_opset_that_is_used_must_be_imported() -> None:
    candidate = model(
        SOURCE.replace("Neg(x)", "my.Neg(x)"), '<ir_version: 10, opset_import: ["" : 21, "my" : 1]>'
    )
    assert signature_faults(Promise.of(model(SOURCE)), candidate) == []
    del candidate.ir.opset_imports["my"]
    assert signature_faults(Promise.of(model(SOURCE)), candidate) == [
        "the opset of 'my' is used and not imported"
    ]
