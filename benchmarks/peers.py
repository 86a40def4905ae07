"""What each optimizer makes of real models: nodes left, time, memory, verdict, and latency of the result.

Each tool works in a process of its own, file to file, and the tools take turns within each round. Every
result is checked by graphopt against its source, signature included. Latency is that of a plain session: the
source and all results take turns in one process, and a ratio to the source comes with its 95 % confidence
interval. Only ratios are told: absolute times are those of a machine. ``MODEL@NAME=SIZE,...`` gives sizes to
symbolic dims. ``--json FILE`` keeps the figures, and goes on where an earlier run stopped; the tables and
pictures in the documentation are made of ``benchmarks/results/peers.json``. With ``--results FOLDER`` latency
can be measured apart, on an idle machine: first with ``--seconds 0``, then again.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import machine
from ranking import summary
from scale import CODE, measure

import graphopt
from graphopt import Model
from graphopt.bench.timing import bench
from graphopt.numerics.options import CheckOptions

_ORT = (
    "import onnxruntime as o, sys; s = o.SessionOptions(); s.optimized_model_filepath = sys.argv[2];"
    "s.graph_optimization_level = o.GraphOptimizationLevel.ORT_ENABLE_{};"
    "o.InferenceSession(sys.argv[1], s, providers=['CPUExecutionProvider'])"
)

TOOLS = {
    **CODE,
    "graphopt": CODE["graphopt"].replace("'exact'", "'portable'"),
    "graphopt default": CODE["graphopt"].replace("'exact'", "'default'"),
    "graphopt, checked": CODE["graphopt"].replace("'exact', '--check', 'off'", "'portable'"),
    "onnxscript": (
        "import onnx_ir as ir, onnxscript.optimizer, onnxscript.rewriter as r, sys; m = ir.load(sys.argv[1]);"
        "onnxscript.optimizer.optimize(m); m = r.rewrite(m); ir.save(m, sys.argv[2])"
    ),
    "onnxruntime basic": _ORT.format("BASIC"),
    "onnxruntime extended": _ORT.format("EXTENDED"),
    "onnxruntime all": _ORT.format("ALL"),
}
"""Each tool with everything that it does by default. Where not said otherwise the result runs in any runtime;
of graphopt that is the pipeline ``portable``."""


def kept_metadata(source: Path, result: Path) -> float:
    """The share of the source's metadata_props that the result still has."""
    before, after = (dict(Model.load(path).ir.metadata_props) for path in (source, result))
    return sum(after.get(key) == value for key, value in before.items()) / len(before) if before else 1.0


def compare(
    model: Path, dims: Mapping[str, int], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """What all tools make of one model, latency left out; the results are kept in ``folder``."""
    taken: dict[str, list[tuple[float, float]]] = {tool: [] for tool in options.tools}
    rows: dict[str, dict[str, Any]] = {}
    results = {tool: _result(folder, tool) for tool in options.tools}
    for path in results.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(options.rounds):
        for tool, target in results.items():
            found = measure(tool, model, target, options.timeout, TOOLS)
            if found is not None:
                taken[tool].append(found)
    base = [statistics.median(column) for column in zip(*taken["graphopt"], strict=True)]
    for tool, target in results.items():
        if not taken[tool]:
            rows[tool] = {"verdict": "no result"}
            continue
        report = graphopt.check(model, target, CheckOptions(dims=dict(dims), samples=options.samples))
        seconds, memory = (statistics.median(column) for column in zip(*taken[tool], strict=True))
        rows[tool] = {
            "nodes": Model.load(target).node_count(),
            "time": seconds / base[0],
            "memory": memory / base[1],
            "verdict": report.verdict,
            "reason": report.reason if report.verdict in ("broken", "does not run", "undecided") else "",
            "metadata": kept_metadata(model, target),
            "runs": not report.signature and report.numerics.verdict != "does not run",
        }
    return {"model": model.stem, "dims": dict(dims), "nodes": Model.load(model).node_count(), "tools": rows}


def race(model: Path, row: dict[str, Any], folder: Path, options: argparse.Namespace) -> None:
    """Measure the latency of the source and all results of a row, in turns."""
    running = [tool for tool, cell in row["tools"].items() if "," not in tool and cell.get("runs")]
    found = bench(
        [model, *(_result(folder, tool) for tool in running)],
        seconds=options.seconds * (1 + len(running)),
        options=CheckOptions(dims=row["dims"], threads=options.threads),
    )
    row["rounds"] = found.rounds
    for tool, entry in zip(running, found.models[1:], strict=True):
        if not entry.error:
            row["tools"][tool] |= {
                "latency": entry.ratio, "low": entry.ratio_low, "high": entry.ratio_high
            }  # fmt: skip


def _result(folder: Path, tool: str) -> Path:
    return folder / tool.replace(" ", "-").replace(",", "") / "model.onnx"


def sized(text: str) -> tuple[Path, dict[str, int]]:
    """A model's path, and the sizes behind it.

    Raises:
        argparse.ArgumentTypeError: A size is no number.
    """
    path, _, sizes = text.partition("@")
    pairs = [entry.rpartition("=") for entry in filter(None, sizes.split(","))]
    if any(not name or not size.isdecimal() for name, _, size in pairs):
        raise argparse.ArgumentTypeError(f"{text}: write sizes as MODEL@NAME=SIZE,NAME=SIZE")
    return Path(path), {name: int(size) for name, _, size in pairs}


def main() -> None:
    """Measure all models with all tools."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=sized, nargs="+", metavar="MODEL[@NAME=SIZE,...]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of latency, for each result")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--samples", type=int, default=6, help="feeds of each check")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--results", type=Path, help="a folder to keep what the tools made")
    options = parser.parse_args()
    options.tools = [
        tool
        for tool in options.tools
        if importlib.util.find_spec(tool.replace(",", " ").split()[0]) is not None
    ]
    settings = {name: getattr(options, name) for name in ("rounds", "timeout", "threads", "tools")}
    found = machine.resume(options.json, settings)
    known = {row["model"]: row for row in found["rows"]}
    for model, dims in options.models:
        with tempfile.TemporaryDirectory() as scratch:
            folder = (options.results or Path(scratch)) / model.stem
            row = known.get(model.stem)
            has_results = row is not None and _result(folder, "graphopt").exists()
            if (
                row is None
                or row["dims"] != dims
                or (options.seconds and "rounds" not in row and not has_results)
            ):
                row = compare(model, dims, folder, options)
            if options.seconds and "rounds" not in row:
                race(model, row, folder, options)
        found["rows"] = [other for other in found["rows"] if other["model"] != model.stem] + [row]
        found["summary"] = list(summary(found["rows"]))
        machine.keep(options.json, found)
        print(f"{row['model']}: {row['nodes']} nodes")
        for tool, cell in row["tools"].items():
            shown = "  ".join(
                f"{name} {value:.2f} x" if isinstance(value, float) else f"{name} {value}"
                for name, value in cell.items()
                if value not in ("", None)
            )
            print(f"  {tool:<20} {shown}", flush=True)
    print("\n".join(summary(found["rows"])))


if __name__ == "__main__":
    main()
