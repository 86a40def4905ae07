"""Rows of sweeps that nobody ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.record.rows import OUTCOMES, TaskRow
from graphopt.sweeping.store import Results

VERDICTS = ("broken", "does not run", "undecided", "not checked", "within tolerance", "rounding", "identical")
HOSTILE = "</script><img src=x onerror=alert(1)>|`\"'*[x](javascript:alert(1)).onnx"


def made(
    model: str = "zoo/a.onnx", pipeline: str = "default", outcome: str = "identical", **more: Any
) -> TaskRow:
    """A row with figures, where such an outcome has any."""
    verdict = outcome if outcome in VERDICTS else ""
    has = bool(verdict) and outcome != "does not run"
    fields: dict[str, Any] = {
        "key": "k",
        "passes": f"passes-of-{pipeline}",
        "status": "done" if verdict else outcome,
        "verdict": verdict,
        "as_loaded": verdict,
        "exit_code": 0 if outcome in VERDICTS[4:] else 1,
        "nodes_before": 100,
        "nodes_after": 60 if has else None,
        "bytes_before": 4000,
        "bytes_after": 3000 if has else None,
        "seconds": 2.0,
        "graphopt": "0.1.0",
        "onnxruntime": "1.31.1",
        "versions": '{"onnxruntime":"1.31.1"}',
        "finished": "2026-11-26T10:00:00Z",
    }
    return TaskRow(model=model, pipeline=pipeline, **{**fields, **more})


def timed(low: float, ratio: float, high: float) -> dict[str, Any]:
    """The fields of a measurement."""
    times = {"source_seconds": 0.01, "result_seconds": 0.01 * ratio}
    return {"ratio": ratio, "ratio_low": low, "ratio_high": high, **times}


def zoo() -> list[TaskRow]:
    """All outcomes, each of one model with one of two pipelines; the other pipeline is right."""
    rows: list[TaskRow] = []
    for at, outcome in enumerate(OUTCOMES):
        model = f"zoo/m{at:02}.onnx"
        why = f"why it is {outcome}" if at < 10 else ""
        rows.append(made(model, "default", outcome, reason=why, record=f"z.records/{at} #1.json"))
        rows.append(
            made(
                model, "portable", nodes_after=100 - at, **timed(0.4 + at / 50, 0.5 + at / 50, 0.6 + at / 50)
            )
        )
    return rows


def saved(path: Path, rows: list[TaskRow], records: dict[tuple[str, str], bytes] | None = None) -> Path:
    """A results file with such rows, and records of some of them."""
    with Results(path) as store:
        for row in rows:
            store.put(row, (records or {}).get((row.model, row.pipeline)))
    return path
