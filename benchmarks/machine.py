"""What figures were measured on and with; and how a measurement goes on where it stopped."""

from __future__ import annotations

import hashlib
import importlib
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
    return {name: importlib.metadata.version(name) for name in _PACKAGES if _is_installed(name)}


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _code() -> str:
    """A digest of graphopt's code, whose version stays the same between changes."""
    digest = hashlib.sha256()
    for name in ("graphopt", "graphopt_passes"):
        package = Path(next(iter(importlib.import_module(name).__path__)))
        for path in sorted(package.rglob("*.py")):
            digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def resume(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What was measured so far with this code, versions and settings, on this machine; else nothing."""
    fresh: dict[str, Any] = {
        "machine": describe(),
        "versions": versions(),
        "code": _code(),
        "settings": settings,
        "rows": [],
    }
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
