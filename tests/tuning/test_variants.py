"""What settings are tried."""

from __future__ import annotations

from pathlib import Path

from graphopt.pipeline.settings import PLAIN, SessionSettings
from graphopt.tuning.variants import Variant, change_name, dimensions_of


def test_what_somebody_said_is_not_varied() -> None:
    assert "threads" in dimensions_of(PLAIN, (), (4, 8))
    said = SessionSettings.of({"threads": 2, "level": "extended", "arena": False})
    assert set(dimensions_of(said, (), (4, 8))) == {"execution", "spinning", "memory-pattern"}
    assert "execution" not in dimensions_of(SessionSettings.of({"inter-threads": 2}), (), (4, 8))


def test_threads_are_powers_of_two_and_all_but_the_default() -> None:
    def threads(physical: int, logical: int) -> list[int]:
        found = dimensions_of(PLAIN, (), (physical, logical)).get("threads", [])
        return [change["threads"] for change in found]

    assert threads(1, 1) == []
    assert threads(2, 2) == [1]
    assert threads(6, 12) == [1, 2, 4, 8, 12]
    assert threads(8, 8) == [1, 2, 4]


def test_one_core_runs_nothing_in_parallel() -> None:
    assert [change["inter_threads"] for change in dimensions_of(PLAIN, (), (1, 1))["execution"]] == [2]
    assert [change["inter_threads"] for change in dimensions_of(PLAIN, (), (8, 8))["execution"]] == [2, 8]


def test_each_part_of_the_optimizer_is_a_question_of_its_own_and_they_add_up() -> None:
    found = dimensions_of(SessionSettings.of({"disabled": "Mine"}), ("GeluFusion", "Pad_Fusion"), (2, 2))
    held = Variant("default", "default", Path("x.onnx"), SessionSettings.of({"disabled": "Mine"}))
    for name in ("GeluFusion", "Pad_Fusion"):
        (change,) = found[f"disabled {name}"]
        made = held.varied(change)
        assert made is not None
        held = made
    assert held.settings.disabled == ("Mine", "GeluFusion", "Pad_Fusion")
    assert held.pipeline == "default"


def test_another_provider_has_no_threads_to_vary() -> None:
    there = dimensions_of(SessionSettings.of({"provider": "CUDAExecutionProvider"}), (), (4, 4))
    assert set(there) == {"level", "memory-pattern"}


def test_a_change_is_named_as_the_command_line_says_it() -> None:
    assert change_name({"execution": "parallel", "inter_threads": 2}) == "execution=parallel inter-threads=2"
    assert change_name({"memory_pattern": False}) == "memory-pattern=false"
    assert change_name({"disabled": ("GeluFusion",)}) == "disabled=GeluFusion"


def test_one_thread_has_nobody_to_spin() -> None:
    alone = Variant("default", "default", Path("x.onnx"), SessionSettings.of({"threads": 1}))
    assert alone.varied({"spinning": False}) is None
    assert alone.varied({"arena": False}) is not None
