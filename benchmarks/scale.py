"""How the cost of optimizing grows with the model: graphopt beside its peers.

Each run is a process of its own, file to file, on models of `shapes`. The tools take turns within each
round, so that a machine that slows down slows all of them; what is reported is the median, and the most
memory that a run held. ``--json FILE`` keeps the figures and goes on where an earlier run stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import machine
from shapes import SHAPES, write

from graphopt import Model

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


# Where there is such a file: the kernel's other figure counts the parent before the process was its own.
_PEAK = (
    "import atexit, pathlib, resource; status = pathlib.Path('/proc/self/status');"
    "atexit.register(lambda: print(chr(10) + 'peak', next((line.split()[1] for line in"
    " (status.read_text() if status.exists() else '').splitlines() if line.startswith('VmHWM')),"
    " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss), flush=True));"
)


def measure(
    tool: str, source: Path, target: Path, timeout: float, code: Mapping[str, str] = CODE
) -> tuple[float, float] | None:
    """Seconds of one run and the most memory that its process held in MB, files that it mapped included."""
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PEAK + code[tool], str(source), str(target)],
            capture_output=True,
            timeout=timeout,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return None
    seconds = time.perf_counter() - begin
    peaks = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("peak ")]
    if done.returncode or not peaks:
        return None
    return seconds, int(peaks[-1]) / (1 << 10 if sys.platform != "darwin" else 1 << 20)


def nodes_of(path: Path) -> int:
    """How many nodes a result has, those of subgraphs included."""
    return Model.load(path).node_count()


def _size(source: Path, options: argparse.Namespace, given_up: set[str]) -> dict[str, dict[str, Any]]:
    taken: dict[str, list[tuple[float, float]]] = {tool: [] for tool in options.tools}
    left: dict[str, int] = {}
    for _ in range(options.rounds):
        for tool in options.tools:
            target = source.with_name(f"{tool}.onnx")
            if tool in given_up:
                continue
            found = measure(tool, source, target, options.timeout)
            if found is None:
                given_up.add(tool)
                continue
            taken[tool].append(found)
            left[tool] = nodes_of(target)
    return {
        tool: {
            "seconds": statistics.median(seconds for seconds, _ in found) if found else None,
            "memory": max(peak for _, peak in found) if found else None,
            "left": left.get(tool),
        }
        for tool, found in taken.items()
    }


def main() -> None:
    """Measure all kinds, sizes and tools; what ``--json`` has already is not measured again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=["chain"], choices=list(SHAPES))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--tools", nargs="+", default=[t for t in CODE if importlib.util.find_spec(t)])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = machine.resume(options.json, {"rounds": options.rounds, "timeout": options.timeout})
    known = {(row["kind"], row["nodes"]): row for row in found["rows"]}
    for kind in options.kinds:
        given_up: set[str] = set()
        for size in options.sizes:
            row = known.get((kind, size))
            if row is None or not set(options.tools) <= row["tools"].keys():
                with tempfile.TemporaryDirectory() as folder:
                    source = Path(folder) / "model.onnx"
                    write(kind, size, source)
                    tools = _size(source, options, given_up)
                row = {"kind": kind, "nodes": size, "tools": tools}
                known[kind, size] = row
                found["rows"] = list(known.values())
                machine.keep(options.json, found)
            given_up |= {tool for tool, cell in row["tools"].items() if cell["seconds"] is None}
            _show(row, options.timeout)


def _show(row: dict[str, Any], timeout: float) -> None:
    base = row["tools"].get("graphopt", {}).get("seconds")
    for tool, cell in row["tools"].items():
        start = f"{row['kind']:<9} {row['nodes']:>8} nodes  {tool:<14}"
        if cell["seconds"] is None:
            print(f"{start} failed, or over {timeout:g} s", flush=True)
            continue
        ratio = f"{cell['seconds'] / base:7.2f} x" if base else ""
        print(
            f"{start} {cell['seconds']:8.2f} s {ratio}  {cell['memory']:7.0f} MB  left {cell['left']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
