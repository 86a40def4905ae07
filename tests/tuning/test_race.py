"""The search for the fastest, on times that are drawn, not measured."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from graphopt.errors import BadInput
from graphopt.tuning.race import Budget, race
from graphopt.tuning.search import Search


class FakeTrack:
    """Variants by name with their seconds; noise and a load of the machine that all in a round share."""

    def __init__(self, seconds: Mapping[str, float], noise: float = 0.05, seed: int = 0) -> None:
        self.seconds = dict(seconds)
        self.noise = noise
        self.chance = random.Random(seed)
        self.time = 0.0
        self.inside: list[str] = []
        self.ran: list[list[str]] = []
        self.broken: dict[str, str] = {}

    def enter(self, variant: str) -> str:
        if variant not in self.broken:
            assert variant not in self.inside
            self.inside.append(variant)
        return self.broken.get(variant, "")

    def leave(self, variant: str) -> None:
        self.inside.remove(variant)

    def of(self, variant: str) -> float:
        return self.seconds[variant.rstrip("'")] if variant not in self.seconds else self.seconds[variant]

    def round_seconds(self, variants: Sequence[str]) -> float:
        return sum(map(self.of, variants))

    def rounds(self, variants: Sequence[str], seconds: float, least: int) -> list[tuple[float, ...]]:
        self.ran.append(list(variants))
        rows: list[tuple[float, ...]] = []
        end = self.time + seconds
        while len(rows) < least or self.time < end:
            load = self.chance.lognormvariate(0, 0.5)
            row = tuple(self.of(v) * load * self.chance.lognormvariate(0, self.noise) for v in variants)
            self.time += sum(row)
            rows.append(row)
        return rows

    def spent(self) -> float:
        return self.time


def search(track: FakeTrack, seconds: float, comparisons: int = 5) -> Search[str]:
    return Search(track, Budget.of(seconds, comparisons, 0.95), lambda name: f"{name}'")


def test_the_fastest_is_found_and_the_slow_are_dropped_on_the_way() -> None:
    track = FakeTrack({"default": 0.010, "fast": 0.008, "faster": 0.007, "slow": 0.020})
    done = race(track, "default", ["slow", "fast", "faster"], seconds=20, confidence=0.99, twin="default'")
    assert done.winner == "faster"
    assert "slow" in done.dropped
    assert "slow" in track.ran[0]
    assert "slow" not in track.ran[1]
    assert len(done.times("slow")) < len(done.times("faster"))
    assert done.ratio("faster", "default").median == pytest.approx(0.7, rel=0.05)


def test_what_others_are_compared_with_stays_to_the_end() -> None:
    track = FakeTrack({"default": 0.010, "source": 0.030, "other": 0.010})
    done = race(track, "default", ["source", "other"], seconds=10, confidence=0.99, kept=["source"])
    assert not done.dropped
    assert all("source" in running for running in track.ran)


def test_a_race_ends_when_nobody_is_left() -> None:
    track = FakeTrack({"default": 0.010, "slow": 0.040})
    done = race(track, "default", ["slow"], seconds=40, confidence=0.99, twin="default'")
    assert done.winner == "default"
    assert len(track.ran) == 1
    assert track.spent() < 11


@pytest.mark.slow
def test_among_equals_the_incumbent_stays_as_often_as_promised() -> None:
    wrong = 0
    for seed in range(400):
        track = FakeTrack(dict.fromkeys(("default", "a", "b", "c"), 0.05), seed=seed)
        budget = Budget.of(10, 3, 0.95)
        found = race(
            track, "default", ["a", "b", "c"], seconds=10, confidence=budget.confidence, twin="default'"
        )
        wrong += found.winner != "default"
    assert wrong / 400 <= 0.05


def test_a_gain_within_what_two_sessions_of_one_model_differ_is_none() -> None:
    seconds = {"default": 0.010, "other": 0.0097}
    assert race(FakeTrack(seconds, 0.01), "default", ["other"], seconds=10, confidence=0.99).winner == "other"
    track = FakeTrack({**seconds, "default'": 0.0104}, 0.01)
    found = race(track, "default", ["other"], seconds=10, confidence=0.99, twin="default'")
    assert found.winner == "default"
    assert found.noise == pytest.approx(1.04, abs=0.005)


def test_what_sessions_were_seen_to_differ_by_holds_for_all_that_follow() -> None:
    track = FakeTrack({"base": 0.010, "base'": 0.0105, "x": 0.010, "y": 0.0097}, 0.01)
    made = search(track, 20)
    assert made.step("first", "base", ["x"], 10).winner == "base"
    del track.seconds["base'"]
    assert made.step("second", "base", ["y"], 10).winner == "base"
    assert search(track, 20).step("second", "base", ["y"], 10).winner == "y"


def test_few_rounds_prefer_nobody() -> None:
    track = FakeTrack({"default": 1.0, "fast": 0.5})
    done = race(track, "default", ["fast"], seconds=5, confidence=0.99)
    assert len(done.rows) < Budget.of(5, 5, 0.95).least
    assert done.winner == "default"
    assert not done.dropped


def test_settings_are_climbed_one_at_a_time_and_gains_add_up() -> None:
    factors = {"a1": 0.8, "a2": 1.3, "b1": 1.0, "c1": 0.7}

    class Factors(FakeTrack):
        def of(self, variant: str) -> float:
            found = 0.01
            for part in variant.rstrip("'").split("+")[1:]:
                found *= factors[part]
            return found

    track = Factors({})
    steps = search(track, 60).climb(
        "base", {"a": ["a1", "a2"], "b": ["b1"], "c": ["c1"]}, lambda held, change: f"{held}+{change}", 0
    )
    assert [step.winner for step in steps] == ["base+a1", "base+a1", "base+a1+c1"]
    assert not track.inside
    assert track.spent() == pytest.approx(60, rel=0.1) or track.spent() < 60


def test_without_time_nothing_is_measured_and_it_is_said() -> None:
    track = FakeTrack(dict.fromkeys(("base", "base+x", "base+y", "base+z"), 1.0))
    made = search(track, 60)
    steps = made.climb(
        "base", {"a": ["x"], "b": ["y"], "c": ["z"]}, lambda held, change: f"{held}+{change}", 10
    )
    assert steps[0].race is not None
    assert steps[1].race is None
    assert "to tell anything" in steps[1].why
    assert made.left >= 10
    assert not track.inside


def test_a_variant_that_does_not_run_is_told_and_the_incumbent_must() -> None:
    track = FakeTrack({"base": 0.01, "x": 0.01, "y": 0.005})
    track.broken["x"] = "no such kernel"
    step = search(track, 10).step("pipelines", "base", ["x", "y"], 10)
    assert step.errors == {"x": "no such kernel"}
    assert step.winner == "y"
    track.broken["base"] = "crash"
    with pytest.raises(BadInput, match=r"base does not run: crash"):
        search(track, 10).step("pipelines", "base", ["y"], 10)
    assert not track.inside


def test_the_doubt_is_shared_among_all_comparisons() -> None:
    assert Budget.of(60, 10, 0.95).confidence == pytest.approx(0.995)
    assert [Budget.of(60, n, 0.95).least for n in (1, 5, 12)] == [9, 12, 13]
