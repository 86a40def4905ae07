"""Who works beside whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from graphopt.cluster.serving import Turns


class Hands:
    """Threads that take turns, each until it is told to go."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.order: list[str] = []
        self._go: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def come(self, name: str, turn: Callable[[], object]) -> None:
        self._go[name] = threading.Event()

        def work() -> None:
            with turn():  # pyright: ignore
                self.inside.append(name)
                self.order.append(name)
                self._go[name].wait(60)
                self.inside.remove(name)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)
        # Long enough to be in, or in the queue.
        time.sleep(0.1)

    def go(self, *names: str) -> None:
        for name in names:
            self._go[name].set()
        time.sleep(0.2)

    def end(self) -> None:
        for event in self._go.values():
            event.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def hands() -> Hands:
    return Hands()


def test_alone_is_alone_and_nobody_overtakes(hands: Hands, tmp_path: Path) -> None:
    turns = Turns(tmp_path / "lock")
    hands.come("a", turns.beside)
    hands.come("b", turns.beside)
    assert hands.inside == ["a", "b"]
    hands.come("alone", turns.alone)
    hands.come("late", turns.beside)
    assert hands.inside == ["a", "b"]
    hands.go("a")
    assert hands.inside == ["b"]
    hands.go("b")
    assert hands.inside == ["alone"]
    hands.go("alone")
    assert hands.inside == ["late"]
    hands.end()
    assert hands.order == ["a", "b", "alone", "late"]


def test_calls_beside_others_are_not_starved(hands: Hands, tmp_path: Path) -> None:
    turns = Turns(tmp_path / "lock")
    hands.come("first", turns.alone)
    hands.come("beside", turns.beside)
    hands.come("second", turns.alone)
    hands.go("first")
    # The one that came between the two has its turn between them.
    assert hands.inside == ["beside"]
    hands.go("beside")
    assert hands.inside == ["second"]
    hands.end()


def test_two_workers_of_a_machine_are_not_alone_at_once(hands: Hands, tmp_path: Path) -> None:
    one, two = Turns(tmp_path / "lock"), Turns(tmp_path / "lock")
    hands.come("one", one.alone)
    hands.come("two", two.alone)
    assert hands.inside == ["one"]
    # While one waits for the machine, its worker goes on.
    hands.come("beside", two.beside)
    assert hands.inside == ["one", "beside"]
    hands.go("one")
    assert hands.inside == ["beside"]
    hands.go("beside")
    assert hands.inside == ["two"]
    hands.end()


def test_a_turn_ends_also_where_its_call_raises(hands: Hands, tmp_path: Path) -> None:
    turns = Turns(tmp_path / "lock")
    for turn in (turns.alone, turns.beside):
        with pytest.raises(ValueError, match="no"), turn():
            raise ValueError("no")
    hands.come("alone", turns.alone)
    assert hands.inside == ["alone"]
    hands.end()


@pytest.mark.slow
def test_many_threads_are_never_together_with_one_that_is_alone(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "lock")
    inside: set[tuple[bool, int]] = set()
    guard, wrong, made = threading.Lock(), list[object](), list[int]()

    def work(number: int) -> None:
        for step in range(100):
            is_alone = (number + step) % 5 == 0
            with turns.alone() if is_alone else turns.beside():
                with guard:
                    inside.add((is_alone, number))
                    if len(inside) > 1 and any(each[0] for each in inside):
                        wrong.append(set(inside))
                with guard:
                    inside.discard((is_alone, number))
        made.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong
    assert len(made) == 12
