"""What ``graphopt doctor`` looks at."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from graphopt import __version__
from graphopt.errors import GraphoptError

_CORE = (
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnx-graphsurgeon",
    "onnxsim",
    "numpy",
    "msgspec",
    "rich",
    "typer",
)
_EXTRAS = {
    "yolo": ("ultralytics", "torch"),
    "peers": ("onnxslim", "onnxoptimizer", "onnxscript"),
    "view": ("netron",),
    "openvino": ("openvino",),
    "cluster": ("dask", "distributed"),
}
_AT_LEAST = re.compile(r"([\w.-]+)>=([\d.]+)")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``optional`` where graphopt works without it."""

    name: str
    ok: bool
    detail: str
    optional: bool = False


def examine() -> list[Finding]:
    """Look at the installation and try its parts."""
    return [
        Finding("graphopt", True, f"{__version__} on Python {platform.python_version()}"),
        *_versions(),
        _try("worker process", _worker),
        *_abilities(),
        _try("onnxsim", _onnxsim),
        _try("passes", _passes),
        _cache(),
    ]


def _versions() -> Iterator[Finding]:
    for name in _CORE:
        yield _version(name, optional=False)
    for extra, names in _EXTRAS.items():
        for name in names:
            found = _version(name, optional=True)
            hint = "" if found.ok else f": pip install 'graphopt[{extra}]'"
            yield Finding(found.name, found.ok, f"{found.detail}{hint}", optional=True)


def _version(name: str, *, optional: bool) -> Finding:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", optional)
    needed = _needed().get(name, "")
    if _numbers(found) < _numbers(needed):
        detail = f"{found} is too old: pip install -U {name} (graphopt needs {needed} or newer)"
        return Finding(name, False, detail, optional)
    return Finding(name, True, found, optional)


@functools.cache
def _needed() -> dict[str, str]:
    """The oldest version of each package that graphopt says it works with, by name."""
    found = map(_AT_LEAST.match, importlib.metadata.requires("graphopt") or ())
    return {match[1]: match[2] for match in found if match is not None}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _try(name: str, action: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, action())
    except GraphoptError as error:
        return Finding(name, False, str(error))


def _worker() -> str:
    from graphopt.pipeline.worker import Worker

    with Worker() as worker:
        reply = worker.call("os:getpid", timeout=30)
    if reply.status != "ok":
        raise GraphoptError(f"a call {reply.error or reply.status}")
    return "starts and answers"


def _tiny() -> str:
    return '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'


def _abilities() -> Iterator[Finding]:
    """What ONNX Runtime can do; nothing of it where it is missing, which `_versions` says."""
    if not _version("onnxruntime", optional=False).ok:
        return
    from graphopt.numerics.abilities import examine as examine_runtime

    for found in examine_runtime():
        yield Finding(f"onnxruntime: {found.name}", found.ok, found.detail, found.optional)


def _onnxsim() -> str:
    import onnx

    import graphopt

    result = graphopt.run(onnx.parser.parse_model(_tiny()), "onnxsim", check="off", cache=False)
    return f"simplifies a model of {result.model.node_count()} node"


def _passes() -> str:
    from graphopt.pipeline.registry import Registry

    registry = Registry.load()
    found = registry.load_all()
    if registry.problems:
        raise GraphoptError(registry.problems[0].message)
    return f"{len(found)} passes, {len(registry.pipelines())} pipelines"


def _cache() -> Finding:
    from graphopt.pipeline.cache import DiskCache

    cache = DiskCache()
    return Finding("cache", True, cache.describe())
