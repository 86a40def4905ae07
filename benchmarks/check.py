"""What the check of one pass costs beside running the model.

For each model its own file is judged as a candidate, several times: ``ratio`` is the time of the whole
judgement over what ONNX Runtime itself took for making the session and for one run on each feed, both
measured in the same judgement. Floor and reference are computed once per source and are told apart.
Prints a table, and JSON with ``--json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

from graphopt import Model
from graphopt.numerics.check import Checker


def measure(path: Path, rounds: int) -> dict[str, float | str]:
    """The figures of one model, in seconds."""
    begin = time.perf_counter()
    with Checker(path=path) as checker:
        checker.start(Model.load(path), [])
        start = time.perf_counter() - begin
        judge = checker._judge  # pyright: ignore[reportPrivateUsage]
        assert judge is not None
        ratios: list[float] = []
        runs: list[float] = []
        for _ in range(rounds):
            # Another level is another session, made anew each time as for each pass.
            begin = time.perf_counter()
            judged = judge.judge(replace(checker.reference.spec, level="disable"))
            total = time.perf_counter() - begin
            inference = sum(judged.outcome.run_seconds)
            ratios.append(total / (inference + judged.outcome.create_seconds))
            runs.append(inference / len(judged.outcome.run_seconds))
    return {
        "model": path.name,
        "start": start,
        "inference": statistics.median(runs),
        "ratio": statistics.median(ratios),
    }


def main() -> None:
    """Measure the models that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [measure(path, options.rounds) for path in options.models]
    for row in rows:
        print(
            f"{row['model']:<40} finding feeds and reference {row['start']:6.2f} s"
            f"   one inference {row['inference']:7.4f} s   check / (session + inferences) {row['ratio']:5.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
