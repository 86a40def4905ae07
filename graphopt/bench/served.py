"""The worker's side of `graphopt.bench.timing`: sessions that stay open, and rounds over them."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort

from graphopt.numerics.runtime import SessionSpec, make
from graphopt.numerics.served import run_values

_sessions: dict[int, ort.InferenceSession] = {}
_feeds: dict[int, Sequence[Mapping[str, Any]]] = {}


def open_session(number: int, spec: SessionSpec) -> tuple[tuple[tuple[str, str], ...], float]:
    """Make the session of one model: its inputs (name, type), and the seconds it took."""
    begin = time.perf_counter()
    made = make(spec)
    seconds = time.perf_counter() - begin
    _sessions[number] = made
    return tuple((port.name, port.type) for port in made.get_inputs()), seconds


def feed_session(number: int, feeds: Sequence[Mapping[str, Any]], warmup: float) -> float:
    """Run a session on its feeds until it is warm: at least once each; the seconds of the last run.

    Args:
        number: Which.
        feeds: What it is fed, in turns.
        warmup: For how many seconds at least, a second run counting only while there is time.
    """
    _feeds[number] = feeds
    begin, last = time.perf_counter(), 0.0
    for arrays in feeds:
        _, last = run_values(_sessions[number], arrays)
    while time.perf_counter() - begin < warmup:
        _, last = run_values(_sessions[number], feeds[0])
    return last


def close_session(number: int) -> None:
    """Drop the session of one model."""
    _sessions.pop(number, None)
    _feeds.pop(number, None)


def rounds(
    numbers: Sequence[int], seconds: float, least: int, most: int, seed: int
) -> list[dict[int, float]]:
    """Run sessions once a round, in random order, all on the same feed of theirs.

    Args:
        numbers: Which.
        seconds: After how long no further round begins.
        least: How many rounds there are in any case.
        most: How many rounds there are at most.
        seed: What the orders follow.
    """
    chance = random.Random(seed)
    found: list[dict[int, float]] = []
    end = time.perf_counter() + seconds
    while len(found) < most and (len(found) < least or time.perf_counter() < end):
        times: dict[int, float] = {}
        for number in chance.sample(numbers, len(numbers)):
            feeds = _feeds[number]
            times[number] = run_values(_sessions[number], feeds[len(found) % len(feeds)])[1]
        found.append(times)
    return found
