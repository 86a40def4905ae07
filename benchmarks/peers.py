"""What each optimizer makes of real models: nodes left, time, the verdict on the result, and its latency.

Each tool works in a process of its own, file to file, and the tools take turns within each round. Every
result is checked by graphopt against its source, signature included. Latency is that of a plain session,
source and result taking turns; the ratio comes with its 95 % confidence interval. Only ratios are told:
absolute times are those of a machine. ``--json FILE`` keeps the figures, and goes on
where an earlier run stopped; the table in the documentation is
made of ``benchmarks/results/peers.json``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
from pathlib import Path
from typing import Any

import machine
from scale import CODE, measure

import graphopt
from graphopt import Model
from graphopt.bench.timing import bench

TOOLS = {
    **CODE,
    "graphopt": CODE["graphopt"].replace("'exact'", "'portable'"),
    "graphopt, checked": CODE["graphopt"].replace("'exact', '--check', 'off'", "'portable'"),
    "onnxscript": (
        "import onnx_ir as ir, onnxscript.optimizer, onnxscript.rewriter as r, sys; m = ir.load(sys.argv[1]);"
        "onnxscript.optimizer.optimize(m); m = r.rewrite(m); ir.save(m, sys.argv[2])"
    ),
}
"""Each tool with everything that it does by default, to a model that runs in any runtime."""


def kept_metadata(source: Path, result: Path) -> float:
    """The share of the source's metadata_props that the result still has."""
    before, after = (dict(Model.load(path).ir.metadata_props) for path in (source, result))
    return sum(after.get(key) == value for key, value in before.items()) / len(before) if before else 1.0


def compare(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What all tools make of one model."""
    seconds: dict[str, list[float]] = {tool: [] for tool in options.tools}
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        results = {
            tool: Path(folder) / str(number) / "model.onnx" for number, tool in enumerate(options.tools)
        }
        for path in results.values():
            path.parent.mkdir()
        for _ in range(options.rounds):
            for tool, target in results.items():
                taken = measure(tool, model, target, options.timeout, TOOLS)
                if taken is not None:
                    seconds[tool].append(taken)
        base = statistics.median(seconds["graphopt"])
        for tool, target in results.items():
            if not seconds[tool]:
                rows[tool] = {"verdict": "no result"}
                continue
            report = graphopt.check(model, target)
            runs = not report.signature and report.numerics.verdict != "does not run"
            rows[tool] = {
                "nodes": Model.load(target).node_count(),
                "time": statistics.median(seconds[tool]) / base,
                "verdict": report.verdict,
                "reason": report.reason if report.verdict in ("broken", "does not run", "undecided") else "",
                "metadata": kept_metadata(model, target),
            }
            if runs:
                measured = bench([model, target], seconds=options.seconds).models[1]
                rows[tool] |= {
                    "latency": measured.ratio, "low": measured.ratio_low, "high": measured.ratio_high
                }  # fmt: skip
    return {"model": model.stem, "nodes": Model.load(model).node_count(), "tools": rows}


def main() -> None:
    """Measure all models with all tools."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.tools = [tool for tool in TOOLS if importlib.util.find_spec(tool.split(",")[0])]
    settings = {name: getattr(options, name) for name in ("rounds", "seconds", "timeout", "tools")}
    found = machine.resume(options.json, settings)
    known = {row["model"]: row for row in found["rows"]}
    for model in options.models:
        row = known.get(model.stem)
        if row is None:
            row = compare(model, options)
            found["rows"].append(row)
            machine.keep(options.json, found)
        print(f"{row['model']}: {row['nodes']} nodes")
        for tool, found in row["tools"].items():
            shown = "  ".join(
                f"{name} {value:.2f} x" if isinstance(value, float) else f"{name} {value}"
                for name, value in found.items()
                if value not in ("", None)
            )
            print(f"  {tool:<18} {shown}", flush=True)


if __name__ == "__main__":
    main()
