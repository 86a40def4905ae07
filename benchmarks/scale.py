"""How the cost of optimizing grows with the model: graphopt beside its peers.

Each run is a process of its own, file to file, on a chain of Identity, Add, Transpose, Transpose
repeated. The tools take turns within each round, so that a machine that slows down slows all of them;
what is reported is the median and its ratio to graphopt's. Prints a table, and JSON with ``--json``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CODE = {
    "graphopt": (
        "import sys; from graphopt.cli import main; main(['run', sys.argv[1], '-o', sys.argv[2],"
        " '--pipeline', 'exact', '--check', 'off', '--no-cache', '--quiet'])"
    ),
    "onnxsim": (
        "import onnx, onnxsim, sys; onnx.save(onnxsim.simplify(onnx.load(sys.argv[1]))[0], sys.argv[2])"
    ),
    "onnxoptimizer": (
        "import onnx, onnxoptimizer as o, sys;"
        "onnx.save(o.optimize(onnx.load(sys.argv[1]), o.get_fuse_and_elimination_passes()), sys.argv[2])"
    ),
    "onnxslim": "import onnx, onnxslim, sys; onnx.save(onnxslim.slim(sys.argv[1]), sys.argv[2])",
    "onnxscript": (
        "import onnx_ir as ir, onnxscript.optimizer, sys; m = ir.load(sys.argv[1]);"
        "onnxscript.optimizer.optimize(m); ir.save(m, sys.argv[2])"
    ),
}


def chain(count: int, path: Path) -> None:
    """Write a model of ``count`` nodes."""
    nodes: list[onnx.NodeProto] = []
    last = "x"
    swap: dict[str, Any] = {"perm": [1, 0]}
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("Identity", {}),
        ("Add", {}),
        ("Transpose", swap),
        ("Transpose", swap),
    )
    while len(nodes) < count:
        for op, attributes in kinds:
            name = f"v{len(nodes)}"
            inputs = [last, "c"] if op == "Add" else [last]
            nodes.append(helper.make_node(op, inputs, [name], name=f"n{len(nodes)}", **attributes))
            last = name
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [4, 4])],
        [numpy_helper.from_array(np.full((4, 4), 1e-3, np.float32), "c")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def measure(
    tool: str, source: Path, target: Path, timeout: float, code: Mapping[str, str] = CODE
) -> float | None:
    """Seconds of one run, None if it failed or took too long."""
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code[tool], str(source), str(target)],
            capture_output=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return None
    return time.perf_counter() - begin if done.returncode == 0 else None


def nodes_of(path: Path) -> int:
    """How many nodes a result has."""
    return len(onnx.load(path).graph.node)


def main() -> None:
    """Measure all sizes and tools."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--tools", nargs="+", default=[t for t in CODE if importlib.util.find_spec(t)])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    given_up: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            source = Path(folder) / f"chain{size}.onnx"
            chain(size, source)
            times: dict[str, list[float]] = {tool: [] for tool in options.tools}
            left: dict[str, int] = {}
            for _ in range(options.rounds):
                for tool in options.tools:
                    if tool in given_up:
                        continue
                    target = Path(folder) / f"{tool}.onnx"
                    seconds = measure(tool, source, target, options.timeout)
                    if seconds is None:
                        given_up.add(tool)
                        continue
                    times[tool].append(seconds)
                    left[tool] = nodes_of(target)
            base = statistics.median(times["graphopt"]) if times.get("graphopt") else None
            for tool in options.tools:
                median = statistics.median(times[tool]) if times[tool] else None
                ratio = median / base if median is not None and base else None
                rows.append(
                    {"nodes": size, "tool": tool, "seconds": median, "ratio": ratio, "left": left.get(tool)}
                )
                shown = f"{median:8.2f} s" if median is not None else f"over {options.timeout:g} s"
                times_graphopt = f"{ratio:7.2f} x" if ratio is not None else "        -"
                print(f"{size:>8} nodes  {tool:<14} {shown:>12} {times_graphopt}  left {left.get(tool, '-')}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
