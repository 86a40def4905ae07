"""Pipeline files: a pipeline with its options and check settings in TOML."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from graphopt.errors import PipelineError
from graphopt.pipeline.registry import Registry, nearest
from graphopt.pipeline.spec import Pipeline
from graphopt.rewrite.gate import Skip

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class CheckTable(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """The table ``[check]``; what is left out keeps its default or comes from the command line."""

    inputs: list[str] = []
    on_failure: Literal["stop", "rollback"] | None = None
    mode: Literal["pass", "off"] | None = None
    atol: float | None = None
    rtol: float | None = None
    seed: int | None = None
    samples: int | None = None
    dims: dict[str, int] = {}


class _File(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    base: str | None = None
    passes: list[str] = []
    before: list[str] = []
    after: list[str] = []
    skip: list[str] = []
    set: dict[str, dict[str, Any]] = {}
    check: CheckTable = msgspec.field(default_factory=CheckTable)


@dataclass(frozen=True, slots=True)
class PipelineFile:
    """What a pipeline file says."""

    pipeline: Pipeline
    skips: tuple[Skip, ...]
    check: CheckTable


def read_pipeline_file(path: Path, registry: Registry) -> PipelineFile:
    """Read a pipeline file; paths in it are relative to its folder.

    Raises:
        PipelineError: The file is missing or wrong; names line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PipelineError(f"Cannot read the pipeline file {path}: {error.strerror}.") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PipelineError(f"{path}: {error}.") from error
    _refuse_unknown(path, text, data)
    try:
        content = msgspec.convert(data, _File)
    except msgspec.ValidationError as error:
        raise PipelineError(f"{path}{_where(text, str(error))}: {error}.") from error
    if (content.base is None) == (not content.passes):
        raise PipelineError(f'{path}: give either base = "NAME" or passes = [...].')
    parts = [*content.before, *(content.passes or [content.base or ""]), *content.after]
    try:
        pipeline = Pipeline.parse(",".join(parts), registry)
        for name, options in content.set.items():
            pipeline = pipeline.with_options({f"{name}.{k}": _text(v) for k, v in options.items()})
        skips = tuple(Skip.parse(skip) for skip in content.skip)
        pipeline.validate_skips(skips)
    except PipelineError as error:
        raise PipelineError(f"{path}{_where(text, str(error))}: {error}") from error
    content.check.inputs = [str(path.parent / item) for item in content.check.inputs]
    return PipelineFile(pipeline, skips, content.check)


def _refuse_unknown(path: Path, text: str, data: Mapping[str, Any]) -> None:
    tables = [("", data, _File)]
    if isinstance(data.get("check"), dict):
        tables.append(("check", data["check"], CheckTable))
    for table, content, struct in tables:
        known = [field.encode_name for field in msgspec.structs.fields(struct)]
        for key in content:
            if key in known:
                continue
            section = f" in [{table}]" if table else ""
            raise PipelineError(
                f"{path}, line {_line(text, key)}: unknown key '{key}'{section}{nearest(key, known)};"
                f" known are {', '.join(known)}."
            )


def _line(text: str, key: str) -> int:
    pattern = re.compile(rf"^\s*\[?\s*[\"']?{re.escape(key)}[\"']?\s*(=|\]|\.)")
    return next((n for n, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _where(text: str, message: str) -> str:
    """``, line N`` of the first quoted word or key of ``message`` that stands in ``text``."""
    for word in re.findall(r"\$\.([\w-]+)", message) + re.findall(r"'([^']+)'", message):
        for number, line in enumerate(text.splitlines(), 1):
            if word in line:
                return f", line {number}"
    return ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "[" + ",".join(f"{key}={_text(item)}" for key, item in value.items()) + "]"
    return str(value)
