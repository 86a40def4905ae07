"""What holds of the pipelines that come with graphopt as a whole."""

from __future__ import annotations

import pytest

from graphopt.pipeline.spec import Pipeline
from graphopt.testing import assert_rewrites
from graphopt_passes import pipelines
from tests.support import ops

DEAD = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float16[N] x) => (double[N] y) {
        wide = Cast<to: int = 1>(x)
        wider = Cast<to: int = 11>(wide)
        y = Neg(wider)
        nobody = Relu(wide)
        reads = Exp(nobody)
    }
"""


@pytest.mark.parametrize("text", [pipelines.EXACT, pipelines.PORTABLE.partition(",onnxsim")[0]])
def test_dead_readers_are_gone_before_the_rest(text: str) -> None:
    # As second readers they kept two Casts from becoming one, until a second run.
    assert ops(assert_rewrites(Pipeline.parse(text), DEAD)) == ["Cast", "Neg"]
