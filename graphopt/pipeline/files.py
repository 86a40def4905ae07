"""Pipeline files: a pipeline in TOML, with its skips and the settings of the check.

.. code-block:: toml

    base = "portable"                 # or: passes = ["a", "b"]; without either: "default"
    before = ["fix-dims"]             # also: after
    skip = ["fold-conv-bn@/model.9/cv1/conv"]
    [set.fix-dims]
    batch = 1
    [check]                           # the command line's flags by name, which override it
    inputs = ["val/*.jpg"]            # relative to this file
    on-failure = "heal"
    [session]                         # the session that the result is loaded with: settings and entries
    threads = 4
    "optimization.disable_specified_optimizers" = "Pad_Fusion"
"""

from __future__ import annotations

import glob
import importlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from graphopt.errors import BadInput, PipelineError
from graphopt.pipeline.names import did_you_mean, one_of
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.settings import PLAIN, SessionSettings, is_known_entry
from graphopt.pipeline.spec import Pipeline, Source, validate_skips
from graphopt.pipeline.toml_lines import KeyPath, line_of, lines_of_keys
from graphopt.rewrite.gate import Skip
from graphopt.storage import write_text

DEFAULT = "default"
_TOP = ("base", "passes", "before", "after", "skip", "set", "check", "session")
_SYNTAX = re.compile(r"^(?P<what>.*?) \(at (?:line (?P<line>\d+), column \d+|end of document)\)$", re.DOTALL)
_Tolerance = Annotated[float, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class CheckSettings(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """The table ``[check]``; None is for what the file does not say.

    Attributes:
        check: After what the numerics are checked.
        on_failure: What to do when a pass breaks the model.
        inputs: Absolute paths of the user's feeds.
        dim: Sizes of symbolic dims in the feeds.
        seed: The first seed of the feeds.
        samples: How many sets of feeds; beside ``inputs``, how many more.
        special: Whether to feed NaN and infinities, too.
        atol: Absolute tolerance, of all outputs or by output.
        rtol: Relative tolerance, of all outputs or by output.
        reference: ``FILE.npz`` or ``torch:FILE.pt``, with an absolute path.
        pixels: How pixels of images become numbers.
        runtime: Other runtimes to look at the result in.
        provider: The ONNX Runtime execution provider.
        threads: Threads of a session.
        timeout: Seconds for a pass.
    """

    check: Literal["pass", "rewrite", "off"] | None = None
    on_failure: Literal["stop", "rollback", "heal"] | None = None
    inputs: tuple[str, ...] | None = None
    dim: dict[str, _Count] | None = None
    seed: int | None = None
    samples: _Count | None = None
    special: bool | None = None
    atol: _Tolerance | dict[str, _Tolerance] | None = None
    rtol: _Tolerance | dict[str, _Tolerance] | None = None
    reference: str | None = None
    pixels: str | None = None
    runtime: tuple[str, ...] | None = None
    provider: str | None = None
    threads: _Count | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None


@dataclass(frozen=True, slots=True)
class PipelineFile:
    """What a pipeline file says.

    Attributes:
        pipeline: The passes with their options.
        skips: What is left out.
        check: The settings of the check.
        path: The file; None for a pipeline that came as a text or from Python.
        session: The session that the result is loaded with.
    """

    pipeline: Pipeline
    skips: tuple[Skip, ...] = ()
    check: CheckSettings = field(default_factory=CheckSettings)
    path: Path | None = None
    session: SessionSettings = PLAIN


def read_pipeline(source: str | Path | Source | Iterable[Source], registry: Registry) -> PipelineFile:
    """Read what ``--pipeline`` and `graphopt.run` take: a file, a name, a text or Python objects.

    Raises:
        PipelineError: It is wrong.
        PluginError: A pass that it names does not load.
    """
    if isinstance(source, Path) or (isinstance(source, str) and source.strip().endswith(".toml")):
        return read_pipeline_file(source, registry)
    return PipelineFile(Pipeline(source, registry))


def write_pipeline_file(
    path: Path, pipeline: Pipeline, skips: Iterable[Skip], session: SessionSettings, comment: str
) -> None:
    """Write a pipeline with its skips as a TOML pipeline file, all of it or nothing.

    Raises:
        BadInput: The file cannot be written.
    """
    lines = [f"# {line}" for line in comment.splitlines()]
    lines.append("passes = [")
    lines += [f"  {_quoted(str(item))}," for item in pipeline.items]
    lines += ["]", "skip = ["]
    lines += [f"  {_quoted(str(skip))}," for skip in skips]
    lines.append("]")
    settings = session.natural()
    if settings:
        # Entries stand in the table itself, where they can be read again.
        config = settings.pop("config", {})
        known = {key: value for key, value in config.items() if is_known_entry(key)}
        unknown = {key: value for key, value in config.items() if key not in known}
        table = {**settings, **known, **({"config": unknown} if unknown else {})}
        lines.append("[session]")
        lines += [f"{_quoted(key)} = {_toml(value)}" for key, value in table.items()]
    write_text(path, "\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    # A JSON string is a basic string of TOML, but for the character that JSON leaves as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_pipeline_file(path: str | Path, registry: Registry) -> PipelineFile:
    """Read a TOML pipeline file.

    Raises:
        PipelineError: It is missing or wrong; the message has the file, the line and the key.
        PluginError: A pass that it names does not load.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise PipelineError(f"Cannot read the pipeline file {path}: {reason}.") from error
    return _Reader(path, text, registry).read()


def _parsed(path: Path, text: str) -> dict[str, Any]:
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return toml.loads(text)
    except toml.TOMLDecodeError as error:
        found = _SYNTAX.match(str(error))
        what = found["what"] if found else str(error)
        line = (found and found["line"]) or text.count("\n") + 1
        raise PipelineError(f"{path}:{line}: this is not TOML: {what}.") from error
    except RecursionError:
        raise PipelineError(f"{path}: this is not a pipeline: it is nested too deep to be read.") from None


class _Reader:
    def __init__(self, path: Path, text: str, registry: Registry) -> None:
        self._path = path
        self._data = _parsed(path, text)
        self._lines = lines_of_keys(text)
        self._registry = registry

    def read(self) -> PipelineFile:
        for key in self._data:
            if key not in _TOP:
                raise self._unknown((key,), "the file", _TOP)
        pipeline = self._with_options(self._pipeline())
        return PipelineFile(pipeline, self._skips(pipeline), self._check(), self._path, self._session())

    def _error(self, key: KeyPath, message: object) -> PipelineError:
        return PipelineError(f"{self._path}:{line_of(self._lines, key)}: {message}")

    def _unknown(self, key: KeyPath, place: str, known: Iterable[str]) -> PipelineError:
        name = key[-1]
        if len(key) > 1 and name in _TOP:
            hint = f"move it above the first [table], '{name}' belongs to the file itself"
        elif len(key) == 1 and name in _CHECK:
            hint = "it belongs under [check]"
        else:
            hint = f"{did_you_mean(name, known)}the keys are {one_of(list(known), 'and')}"
        return self._error(key, f"unknown key '{name}' in {place}: {hint}.")

    def _typed(self, key: KeyPath, value: Any, annotation: Any, expected: str) -> Any:
        try:
            return msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            name = ".".join(key)
            raise self._error(key, f"'{name}' cannot be {value!r}: expected {expected}.") from error

    def _texts(self, key: str) -> list[str]:
        value = self._data.get(key, [])
        return self._typed((key,), [value] if isinstance(value, str) else value, list[str], "a list of texts")

    def _pipeline(self) -> Pipeline:
        if "base" in self._data and "passes" in self._data:
            raise self._error(("passes",), "give either 'base' or 'passes', not both.")
        parts = [self._parts("before")]
        if "passes" in self._data:
            parts.append(self._parts("passes"))
        else:
            base = self._typed(("base",), self._data.get("base", DEFAULT), str, "the name of a pipeline")
            parts.append(self._parse("base", base))
        parts.append(self._parts("after"))
        return Pipeline(parts)

    def _parts(self, key: str) -> Pipeline:
        return Pipeline([self._parse(key, text) for text in self._texts(key)])

    def _parse(self, key: str, text: str) -> Pipeline:
        try:
            return Pipeline.parse(text, self._registry, title=f"'{key}'")
        except PipelineError as error:
            raise self._error((key,), error) from error

    def _with_options(self, pipeline: Pipeline) -> Pipeline:
        tables = self._typed(("set",), self._data.get("set", {}), dict[str, Any], "tables [set.PASS]")
        for name, table in tables.items():
            expected = "a table [set.PASS] of options"
            for option, value in self._typed(("set", name), table, dict[str, Any], expected).items():
                pipeline = self._with_option(pipeline, name, option, value)
        return pipeline

    def _with_option(self, pipeline: Pipeline, name: str, option: str, value: Any) -> Pipeline:
        try:
            return pipeline.with_option(name, option, value)
        except PipelineError as error:
            raise self._error(("set", name, option), error) from error

    def _skips(self, pipeline: Pipeline) -> tuple[Skip, ...]:
        try:
            skips = tuple(Skip.parse(text) for text in self._texts("skip"))
            validate_skips(skips, pipeline)
        except PipelineError as error:
            raise self._error(("skip",), error) from error
        return skips

    def _session(self) -> SessionSettings:
        expected = "a table of session settings"
        table = self._typed(("session",), self._data.get("session", {}), dict[str, Any], expected)
        settings = PLAIN
        for key, value in table.items():
            settings = self._setting(key, value, settings)
        return settings

    def _setting(self, key: str, value: Any, base: SessionSettings) -> SessionSettings:
        try:
            return SessionSettings.of({key: value}, base)
        except BadInput as error:
            raise self._error(("session", key), error) from error

    def _check(self) -> CheckSettings:
        table = self._typed(("check",), self._data.get("check", {}), dict[str, Any], "a table")
        found: dict[str, Any] = {}
        for name, value in table.items():
            if name not in _CHECK:
                raise self._unknown(("check", name), "[check]", _CHECK)
            setting, expected = _CHECK[name]
            if name in ("inputs", "runtime") and isinstance(value, str):
                value = [value]
            found[setting.name] = self._typed(("check", name), value, setting.type, expected)
        if "inputs" in found:
            found["inputs"] = tuple(path for item in found["inputs"] for path in self._existing(item))
        if "reference" in found:
            found["reference"] = self._absolute(found["reference"])
        return CheckSettings(**found)

    def _existing(self, item: str) -> list[str]:
        folder = self._path.resolve().parent
        whole = folder / Path(item).expanduser()
        if whole.exists():
            return [str(whole)]
        matches = sorted(glob.glob(str(Path(item).expanduser()), root_dir=folder, recursive=True))
        if not matches:
            raise self._error(("check", "inputs"), f"'{item}' matches no file or folder in {folder}.")
        return [str(folder / match) for match in matches]

    def _absolute(self, reference: str) -> str:
        prefix = "torch:" if reference.startswith("torch:") else ""
        file = Path(reference[len(prefix) :]).expanduser()
        return f"{prefix}{self._path.resolve().parent / file}"


_EXPECTED = {
    "check": "pass, rewrite or off",
    "on-failure": "stop, rollback or heal",
    "inputs": "a list of paths",
    "dim": "a table of sizes, each at least 1",
    "seed": "an integer",
    "samples": "an integer of at least 1",
    "special": "true or false",
    "atol": "a number of at least 0, or a table of them by output",
    "rtol": "a number of at least 0, or a table of them by output",
    "reference": "FILE.npz or torch:FILE.pt",
    "pixels": "unit, signed, imagenet or raw",
    "runtime": "a list of runtimes",
    "provider": "the name of an execution provider",
    "threads": "an integer of at least 1",
    "timeout": "seconds, above 0",
}
_CHECK = {
    field.encode_name: (field, _EXPECTED[field.encode_name])
    for field in msgspec.structs.fields(CheckSettings)
}
