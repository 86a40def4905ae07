"""What the figures of all models say together; its sentences stand in the documentation, too."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

RIGHT = ("identical", "rounding", "within tolerance", "undecided")
OWN, FASTEST = "graphopt", "graphopt default"
"""The columns of graphopt whose nodes, and whose latency, are compared with the peers'."""


def is_right(cell: dict[str, Any]) -> bool:
    """Whether a result may be used."""
    return cell["verdict"] in RIGHT


def peers_of(row: dict[str, Any], measured: str) -> dict[str, float]:
    """The figures of the optimizers that one could use instead, ONNX Runtime's own levels left out."""
    return {
        tool: cell[measured]
        for tool, cell in row["tools"].items()
        if not tool.startswith(("graphopt", "onnxruntime")) and is_right(cell) and cell.get(measured)
    }


def summary(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Sentences about all models: nodes, and geometric means of latency."""
    counted = [row for row in rows if row["tools"].get(OWN, {}).get("nodes") and peers_of(row, "nodes")]
    more = [
        row["model"] for row in counted if row["tools"][OWN]["nodes"] > min(peers_of(row, "nodes").values())
    ]
    named = f": {', '.join(more)}" if more else ""
    yield f"Of {len(counted)} models graphopt leaves more nodes than the best peer on {len(more)}{named}."
    timed = [row for row in rows if row["tools"].get(FASTEST, {}).get("latency")]
    if not timed:
        return
    for bound in ("latency", "low", "high"):
        if any(not row["tools"][FASTEST][bound] > 0 for row in timed):
            return
    means = [
        statistics.geometric_mean(row["tools"][FASTEST][b] for row in timed)
        for b in ("latency", "low", "high")
    ]
    yield (
        f"Latency of the pipeline default's result, geometric mean over {len(timed)} models, source = 1:"
        f" {means[0]:.3f} (with all lower ends {means[1]:.3f}, with all upper ends {means[2]:.3f})."
    )
    against = [
        row["tools"][FASTEST]["latency"] / min(peers_of(row, "latency").values())
        for row in timed
        if peers_of(row, "latency")
    ]
    if against:
        yield (
            "Against the fastest result of any peer for each model, chosen behind the fact:"
            f" {statistics.geometric_mean(against):.3f}."
        )
    slower = [row for row in timed if row["tools"][FASTEST]["low"] > 1.02]
    said = ", ".join(f"{row['model']} ({row['tools'][FASTEST]['latency']:.2f})" for row in slower) or "none"
    yield f"Slower than 1.02 x the source beyond doubt: {said}."
