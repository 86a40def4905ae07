"""The pictures of what was measured, ``docs/benchmarks/*.svg``, made of ``benchmarks/results/*.json``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

_RESULTS = Path(__file__).parent / "results"
_TARGET = Path(__file__).parent.parent / "docs" / "benchmarks"
_SIZE = (7.5, 4.2)
_WIDEST = 1.4
"""Ratios beyond it lie on the edge."""


def _read(name: str) -> dict[str, Any] | None:
    path = _RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _finish(figure: Any, axes: Any, name: str, title: str, found: dict[str, Any]) -> None:
    """Write one picture, machine and versions beneath it; the same bytes for the same figures."""
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    machine = found.get("machine")
    said = (
        [f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}"] if machine else []
    )
    said.append(", ".join(f"{tool} {version}" for tool, version in found.get("versions", {}).items()))
    figure.text(0.01, 0.01, "\n".join(filter(None, said)), fontsize=5.5, color="#666666")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    _TARGET.mkdir(exist_ok=True)
    figure.savefig(_TARGET / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def _growth(found: dict[str, Any], measured: str, label: str) -> None:
    for kind in dict.fromkeys(row["kind"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["kind"] == kind]
        figure, axes = plt.subplots(figsize=_SIZE)
        for tool in dict.fromkeys(tool for row in rows for tool in row["tools"]):
            cells = [(row["nodes"], row["tools"].get(tool, {}).get(measured)) for row in rows]
            points = [(nodes, value) for nodes, value in cells if value]
            if points:
                axes.loglog(*zip(*points, strict=True), marker="o", label=tool)
        if axes.lines:
            axes.set_xlabel("nodes")
            axes.set_ylabel(label)
            axes.legend(fontsize=7)
            name = f"{measured}-{kind}"
            _finish(figure, axes, name, f"{label} as a model grows: {kind}", found)
        else:
            plt.close(figure)


def _peers(found: dict[str, Any], name: str, title: str, spread: bool) -> None:
    """For each model a row of points, one a tool; a line for the interval where there is one."""
    tools = [t for t in dict.fromkeys(t for row in found["rows"] for t in row["tools"]) if "," not in t]
    figure, axes = plt.subplots(figsize=(_SIZE[0], 1.2 + 0.32 * len(found["rows"])))
    for number, tool in enumerate(tools):
        for place, row in enumerate(found["rows"]):
            cell = row["tools"].get(tool, {})
            value = cell.get(name)
            if value is None:
                continue
            value = value if spread else value / row["nodes"]
            height = -place + 0.1 * (len(tools) / 2 - number)
            label = tool if place == 0 else None
            marker = "o" if value < _WIDEST else ">"
            value = min(value, _WIDEST)
            axes.plot(value, height, marker, color=f"C{number}", markersize=4, label=label)
            if spread and not math.isnan(cell.get("low", math.nan)):
                axes.plot([cell["low"], cell["high"]], [height, height], color=f"C{number}", linewidth=1)
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.set_yticks([-place for place in range(len(found["rows"]))], [r["model"] for r in found["rows"]])
    axes.tick_params(labelsize=7)
    axes.set_ylim(-len(found["rows"]) + 0.3, 0.7)
    axes.legend(
        fontsize=7, loc="upper center", bbox_to_anchor=(0.2, -0.03), ncols=len(tools), columnspacing=1
    )
    _finish(figure, axes, name, title, found)


def main() -> None:
    """Draw all of which there are figures."""
    mpl.rcParams["svg.hashsalt"] = "graphopt"
    scale = _read("scale")
    if scale is not None:
        _growth(scale, "seconds", "seconds")
        _growth(scale, "memory", "MB at most")
    peers = _read("peers")
    if peers is not None:
        _peers(peers, "nodes", "nodes left, source = 1", spread=False)
        _peers(peers, "latency", "latency of the result, source = 1, with 95 % interval", spread=True)


if __name__ == "__main__":
    main()
