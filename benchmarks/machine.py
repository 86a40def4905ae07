"""What figures were measured on and with, kept beside them; and how a measurement goes on where it stopped."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = (
    "graphopt", "onnx", "onnx-ir", "onnxruntime", "onnxsim", "onnxoptimizer", "onnxslim", "onnxscript"
)  # fmt: skip


def describe() -> dict[str, str]:
    """The machine: processor, cores, system and Python."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """The versions of what is measured, where it is installed."""
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def resume(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What was measured so far with these versions, settings and machine; else nothing yet."""
    fresh: dict[str, Any] = {
        "machine": describe(), "versions": versions(), "settings": settings, "rows": []
    }  # fmt: skip
    if path is None or not path.is_file():
        return fresh
    former = json.loads(path.read_text(encoding="utf-8"))
    same = isinstance(former, dict) and all(former.get(k) == fresh[k] for k in fresh if k != "rows")
    return former if same else fresh


def keep(path: Path | None, found: dict[str, Any]) -> None:
    """Write what was measured so far, all of it or nothing."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    scratch.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    os.replace(scratch, path)
