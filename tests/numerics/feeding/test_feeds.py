from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

from graphopt.errors import BadInput
from graphopt.numerics.feeding.feedplan import FeedPlan, FeedSet, NoFeeds, Trial, Tried
from graphopt.numerics.feeding.feeds import find_feeds
from graphopt.numerics.feeding.generate import DISTRIBUTIONS, Distribution
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.numerics.values import flatten, is_float

IMAGE = "float[N, 3, H, W] x"
IMAGE_SPEC = ValueSpec.parse("x", "tensor(float)", ("N", 3, "H", "W"))


def model(inputs: str, body: str = "") -> ir.Model:
    name = inputs.rpartition(" ")[2]
    body = body or f"{{ y = Identity({name}) }}"
    text = f'<ir_version: 8, opset_import: ["" : 17]> main ({inputs}) => (float[M] y) {body}'
    return ir.from_proto(onnx.parser.parse_model(text))


def find(
    *specs: ValueSpec, refuse: Callable[[FeedSet], str] | None = None, inputs: str = IMAGE, **options: Any
) -> FeedPlan:
    def attempt(feed: FeedSet) -> Trial:
        return Trial(refuse(feed) if refuse is not None else "")

    return find_feeds(model(inputs), specs, attempt, **options)


def tensor(name: str, elem: str, *dims: int | str | None) -> ValueSpec:
    return ValueSpec.parse(name, f"tensor({elem})", dims)


def test_six_sets_of_several_distributions_and_two_sizes() -> None:
    plan = find(IMAGE_SPEC)
    assert [feed.distribution for feed in plan.sets] == [
        "normal",
        "wide",
        "image",
        "sparse",
        "binary",
        "tiny",
    ]
    shapes = [feed.arrays["x"].shape for feed in plan.sets]
    for axis in (0, 2, 3):
        assert len({shape[axis] for shape in shapes}) == 2
    assert any(shape[2] != shape[3] for shape in shapes)
    assert all(shape[2] % 32 == 0 and shape[3] % 32 == 0 for shape in shapes)
    assert any(np.any(feed.arrays["x"] < 0) for feed in plan.sets)


@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, "special"])
def test_what_each_distribution_draws(distribution: Distribution) -> None:
    (feed,) = find(tensor("x", "float", 40, 50), samples=1, distributions=[distribution]).sets
    x = feed.arrays["x"].astype(np.float64)
    size = np.abs(x[np.isfinite(x)])
    assert np.any(x < 0) == (distribution not in ("image", "binary")) or distribution == "constant"
    assert np.all(np.isfinite(x)) == (distribution != "special")
    if distribution == "wide":
        assert size.max() > 20
    elif distribution == "tiny":
        assert size.max() < 0.01
    elif distribution == "sparse":
        assert np.mean(x == 0) > 0.8
    elif distribution == "constant":
        assert len(np.unique(x)) == 1
    elif distribution == "binary":
        assert set(np.unique(x)) == {0, 1}
    elif distribution == "image":
        assert (x.min(), x.max()) == (0, 1)
    else:
        assert size.max() > 2


def test_integers_reach_the_ends_of_their_range() -> None:
    body = "<float[5, 1] t = {1, 2, 3, 4, 5}> { y = Gather(t, k) }"
    plan = find_feeds(model("int64[N, 12] k", body), [tensor("k", "int64", "N", 12)], lambda feed: Trial())
    drawn = np.concatenate([feed.arrays["k"].reshape(-1) for feed in plan.sets])
    assert set(drawn) == {0, 1, 2, 3, 4}
    wide = next(feed.arrays["k"] for feed in plan.sets if feed.distribution == "wide")
    assert {wide.min(), wide.max()} == {0, 4}


def runs(text: str, arrays: dict[str, Any]) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = onnx.parser.parse_model(text).SerializeToString()
    return ort.InferenceSession(content, options).run(None, arrays)[0]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (
            """<int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}>
            { p = Pad(x, pads) y = MaxPool<kernel_shape = [3, 3]>(p) }""",
            "{ y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x) }",
        ),
        (
            """<float a = {-3.0}, float b = {-1.0}, float c = {1.0}, float d = {3.0}>
            { s = Clip(x, a, b) y = Clip(s, c, d) }""",
            "<float a = {-3.0}, float d = {3.0}> { y = Clip(x, a, d) }",
        ),
        ("{ y = LeakyRelu<alpha = 0.1>(x) }", "{ y = Relu(x) }"),
        ("{ y = Relu(x) }", "<float a = {0.0}, float b = {6.0}> { y = Clip(x, a, b) }"),
    ],
)
def test_default_feeds_show_what_numbers_in_0_to_1_hide(right: str, wrong: str) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, H, W] x) => (float[N, 3, A, B] y) '
    differing = [
        feed.distribution
        for feed in find(IMAGE_SPEC).sets
        if not np.array_equal(runs(head + right, dict(feed.arrays)), runs(head + wrong, dict(feed.arrays)))
    ]
    assert differing


def test_feeds_follow_from_the_seed() -> None:
    first, again, other = find(IMAGE_SPEC), find(IMAGE_SPEC), find(IMAGE_SPEC, seed=1)
    assert [feed.key for feed in first.sets] == [feed.key for feed in again.sets]
    assert {feed.key for feed in first.sets}.isdisjoint(feed.key for feed in other.sets)


@pytest.mark.parametrize("samples", [1, 3, 13])
def test_samples(samples: int) -> None:
    plan = find(IMAGE_SPEC, samples=samples)
    assert len({feed.key for feed in plan.sets}) == len({feed.name for feed in plan.sets}) == samples


def test_one_name_has_one_size() -> None:
    specs = [tensor("ids", "int64", "B", "S"), tensor("attention_mask", "int64", "B", "S")]
    for feed in find(*specs, inputs="int64[B, S] ids, int64[B, S] attention_mask").sets:
        assert feed.arrays["ids"].shape == feed.arrays["attention_mask"].shape
        assert set(np.unique(feed.arrays["attention_mask"])) <= {0, 1}
        assert np.all(feed.arrays["attention_mask"][:, 0] == 1)


def test_wanted_sizes_hold_in_every_set() -> None:
    plan = find(IMAGE_SPEC, dims={"H": 40, "x:0": 3})
    assert {feed.arrays["x"].shape[:3] for feed in plan.sets} == {(3, 3, 40)}
    assert len({feed.arrays["x"].shape[3] for feed in plan.sets}) == 2


def test_an_unknown_dim_is_refused() -> None:
    with pytest.raises(BadInput, match="--dim names 'Q', which is no symbolic dim of the inputs: N, H, W"):
        find(IMAGE_SPEC, dims={"Q": 1})


def test_some_sets_have_the_sizes_that_passes_freeze() -> None:
    plan = find(IMAGE_SPEC, frozen={"N": 5, "W": 160})
    frozen = [feed for feed in plan.sets if (feed.dims["N"], feed.dims["W"]) == (5, 160)]
    assert 0 < len(frozen) < len(plan.sets)


def test_sizes_are_sought_until_the_source_runs() -> None:
    def refuse(feed: FeedSet) -> str:
        return "" if feed.dims["H"] == feed.dims["W"] == 224 else "It wants 224."

    plan = find(IMAGE_SPEC, refuse=refuse)
    assert {feed.arrays["x"].shape[2:] for feed in plan.sets} == {(224, 224)}
    assert {feed.dims["N"] for feed in plan.sets} == {1, 2}
    assert [note[:33] for note in plan.notes] == [
        "Only size 224 of the dim 'H' was ",
        "Only size 224 of the dim 'W' was ",
    ]
    assert plan.attempts < 30


def test_a_batch_that_must_be_one() -> None:
    plan = find(IMAGE_SPEC, refuse=lambda feed: "" if feed.dims["N"] == 1 else "Batch.")
    assert {feed.dims["N"] for feed in plan.sets} == {1}
    assert len({feed.dims["H"] for feed in plan.sets}) == 2


def test_an_expected_size_is_read_from_the_message() -> None:
    message = "Got invalid dimensions for input: x for the following indices index: 2 Got: 64 Expected: 123"
    plan = find(IMAGE_SPEC, refuse=lambda feed: "" if feed.dims["H"] == 123 else message)
    assert plan.sizes[0]["H"] == 123
    assert plan.attempts < 20


def test_a_bound_is_read_from_the_message() -> None:
    def refuse(feed: FeedSet) -> str:
        inside = feed.arrays["k"].max() <= 2
        return "" if inside else "idx=7 must be within the inclusive range [-3,2]"

    plan = find(tensor("k", "int64", 40), refuse=refuse, inputs="int64[40] k")
    assert len(plan.sets) == 6
    assert {int(feed.arrays["k"].max()) for feed in plan.sets} <= {1, 2}


def test_giving_up_names_the_input_what_was_tried_and_what_to_do() -> None:
    with pytest.raises(BadInput) as caught:
        find(IMAGE_SPEC, refuse=lambda feed: "Reshape node. It does not fit.")
    text = str(caught.value)
    assert "x tensor(float) [N,3,H,W]" in text
    assert "attempts, first with N=1 H=64 W=64: Reshape node. It does not fit" in text
    assert "--inputs" in text
    assert "--dim NAME=N" in text
    assert isinstance(caught.value, NoFeeds)
    assert caught.value.plan.tried[0] == Tried({"N": 1, "H": 64, "W": 64}, "Reshape node. It does not fit.")


def test_a_failure_that_no_feed_mends_ends_the_search() -> None:
    attempts: list[FeedSet] = []

    def attempt(feed: FeedSet) -> Trial:
        attempts.append(feed)
        return Trial("No session.", fatal=True)

    with pytest.raises(BadInput, match="No session"):
        find_feeds(model(IMAGE), [IMAGE_SPEC], attempt)
    assert len(attempts) == 1


def test_what_fails_alone_is_replaced_by_milder_values_and_noted() -> None:
    plan = find(IMAGE_SPEC, refuse=lambda feed: "Too wide." if feed.distribution == "wide" else "")
    assert [feed.distribution for feed in plan.sets][1] == "mild"
    assert any("Too wide." in note for note in plan.notes)


def test_outputs_that_are_not_finite_ask_for_milder_values() -> None:
    def attempt(feed: FeedSet) -> Trial:
        return Trial(finite=1.0 if feed.distribution == "mild" else 0.5)

    plan = find_feeds(model(IMAGE), [IMAGE_SPEC], attempt)
    assert {feed.distribution for feed in plan.sets} == {"mild"}


def test_past_and_total_agree() -> None:
    specs = [
        tensor("input_ids", "int64", "batch", "sequence_length"),
        tensor("attention_mask", "int64", "batch", "total_sequence_length"),
        tensor("past_key_values.0.key", "float", "batch", 4, "past_sequence_length", 8),
    ]
    inputs = "int64[B, S] input_ids, int64[B, T] attention_mask, float[B, 4, P, 8] past_key_values_0_key"
    for feed in find(*specs, inputs=inputs).sets:
        ids, mask, past = (feed.arrays[spec.name].shape for spec in specs)
        assert mask[1] == ids[1] + past[2]
        assert ids[0] == mask[0] == past[0]


def test_lengths_stay_within_the_sequence() -> None:
    specs = [tensor("x", "int64", "N", "T"), tensor("x_lengths", "int64", "N")]
    for feed in find(*specs, inputs="int64[N, T] x, int64[N] x_lengths").sets:
        lengths, longest = feed.arrays["x_lengths"], feed.arrays["x"].shape[1]
        assert lengths.max() == longest
        assert lengths.min() >= 1


@pytest.mark.parametrize(
    ("elem", "dtype"),
    [
        ("float", np.float32),
        ("double", np.float64),
        ("float16", np.float16),
        ("bfloat16", ml_dtypes.bfloat16),
        ("float8e4m3fn", ml_dtypes.float8_e4m3fn),
        ("int8", np.int8),
        ("uint8", np.uint8),
        ("int32", np.int32),
        ("int4", ml_dtypes.int4),
        ("bool", np.bool_),
        ("string", object),
        ("complex64", np.complex64),
    ],
)
def test_every_element_type(elem: str, dtype: Any) -> None:
    for feed in find(tensor("x", elem, 2, 30), inputs="float[2, 30] x").sets:
        array = feed.arrays["x"]
        assert (array.dtype, array.shape) == (np.dtype(dtype), (2, 30))
        if is_float(array.dtype):
            assert np.all(np.isfinite(array.astype(np.complex128)))


def test_sequences_maps_and_optionals() -> None:
    specs = [
        ValueSpec.parse("s", "seq(tensor(float))", ("N", 2)),
        ValueSpec.parse("m", "map(string,tensor(float))", None),
        ValueSpec.parse("o", "optional(seq(tensor(int64)))", (3,)),
    ]
    for feed in find(*specs, inputs="float[N] s").sets:
        assert {item.shape[1] for item in feed.arrays["s"]} == {2}
        assert all(isinstance(key, str) for key in feed.arrays["m"])
        assert all(array is not None and array.shape == (3,) for _, array in flatten(feed.arrays["o"]))


def test_what_cannot_be_fed_is_said() -> None:
    with pytest.raises(BadInput, match="'x' is a sparse tensor"):
        find(ValueSpec.parse("x", "sparse_tensor(float)", (3, 3)))
    with pytest.raises(BadInput, match=r"'x' is tensor\(mystery\)"):
        find(tensor("x", "mystery", 3))


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 0, 4, 4)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    for feed in find(tensor("x", "float", *shape), inputs="float[2] x").sets:
        assert feed.arrays["x"].shape == shape


def test_a_model_without_inputs() -> None:
    plan = find_feeds(model(IMAGE), [], lambda feed: Trial())
    assert {len(feed.arrays) for feed in plan.sets} == {0}
