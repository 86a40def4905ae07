"""Inputs with a default become constants."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import BadInput
from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.seal_defaults import SealDefaults
from tests.support import proto, to_proto

FEEDS = [{"x": np.array([[1, -2]], dtype=np.float32)}]
BODY = "(float[1,2] x, float[2,2] w = {1, 2, 3, 4}, float[1,2] b = {0, 1}) => (float[1,2] y)"
TEXT = f'<ir_version: IR, opset_import: ["" : 17]> g {BODY} {{ p = MatMul(x, w) y = Add(p, b) }}'


def test_only_what_has_no_default_stays_an_input() -> None:
    after = assert_rewrites(SealDefaults(), proto(TEXT.replace("IR", "8")), applied=1, feeds=FEEDS)
    assert [info.name for info in after.graph.input] == ["x"]
    assert {tensor.name for tensor in after.graph.initializer} == {"w", "b"}


def test_some_may_be_kept() -> None:
    after = assert_rewrites(SealDefaults(keep=("b",)), proto(TEXT.replace("IR", "8")), applied=1, feeds=FEEDS)
    assert [info.name for info in after.graph.input] == ["x", "b"]


def test_below_ir_version_4_they_are_constants() -> None:
    assert_declines(SealDefaults(), proto(TEXT.replace("IR", "3").replace("17", "8")))


def test_an_unknown_input_to_keep_is_refused() -> None:
    with pytest.raises(BadInput, match="no input 'z' to keep"):
        SealDefaults(keep=("z",)).transform(to_proto(proto(TEXT.replace("IR", "8"))), frozenset())
