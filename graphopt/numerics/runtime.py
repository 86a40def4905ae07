"""The only maker of ONNX Runtime sessions.

Sessions of models under check run in a worker process, because ONNX Runtime may crash on them; there they
stay warm between calls (`graphopt.numerics.served`). `session` makes one in this process, for a user.
"""

from __future__ import annotations

import atexit
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from graphopt.errors import NO_ROOM, BadInput, GraphoptError
from graphopt.pipeline.settings import Level, SessionSettings
from graphopt.pipeline.worker import Reply, Worker, pool

if TYPE_CHECKING:
    import onnxruntime as ort

    from graphopt.numerics.feeding.feeds import FeedSet

Status: TypeAlias = Literal["ok", "does not run", "crashed", "timed out", "out of memory"]

LEVELS: dict[Level, str] = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}
_LONGEST = 400
_FLUSHING = ("session.set_denormal_as_zero", "1")
_OUTSIDE = "session.optimized_model_external_initializers"
_ORT_FORMAT = "session.save_model_format"


@dataclass(frozen=True, slots=True)
class SessionSpec(SessionSettings):
    """A model and the settings that it is run with; without any, as it is, not optimized.

    Attributes:
        path: The model file.
        level: See `SessionSettings`.
    """

    path: str
    level: Level = field(default="disable", kw_only=True)

    @classmethod
    def loading(cls, path: str | Path, settings: SessionSettings, level: Level = "all") -> SessionSpec:
        """A model with given settings; where these do not name a level, it is ``level``."""
        said: dict[str, Any] = {item.name: getattr(settings, item.name) for item in fields(SessionSettings)}
        said["level"] = settings.level or level
        return cls(str(path), **said)


def session_options(settings: SessionSettings) -> Any:
    """An ``onnxruntime.SessionOptions`` of settings: all but the providers, which a session is made with.

    Raises:
        BadInput: The level or a provider does not exist in this ONNX Runtime.
    """
    import onnxruntime as ort

    for provider in settings.providers:
        demand_provider(provider)
    options = ort.SessionOptions()
    if settings.level is not None:
        level = getattr(ort.GraphOptimizationLevel, LEVELS[settings.level], None)
        if level is None:
            raise BadInput(
                f"onnxruntime {ort.__version__} has no optimization level '{settings.level}':"
                " use extended or all."
            )
        options.graph_optimization_level = level
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    if settings.inter_threads is not None:
        options.inter_op_num_threads = settings.inter_threads
    if settings.execution == "parallel":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_mem_pattern = settings.memory_pattern
    options.enable_cpu_mem_arena = settings.arena
    for key, value in settings.entries.items():
        options.add_session_config_entry(key, value)
    for name, size in settings.dims:
        options.add_free_dimension_override_by_name(name, size)
    for name, size in settings.denotations:
        options.add_free_dimension_override_by_denotation(name, size)
    return options


def make(spec: SessionSpec, save_to: str = "") -> ort.InferenceSession:
    """Make a session in this process, as `spec` says and with logging of errors only.

    Args:
        spec: The session.
        save_to: A file to write the model to as the runtime has rewritten it: with the suffix ``.ort`` in
            ORT format, else as ONNX with the weights beside it.

    Raises:
        BadInput: The level or a provider does not exist in this ONNX Runtime.
        Exception: Whatever ONNX Runtime raises for a model that it refuses; see `sentence`.
    """
    import onnxruntime as ort

    options = session_options(spec)
    options.log_severity_level = 3
    if save_to:
        options.optimized_model_filepath = save_to
        if save_to.endswith(".ort"):
            options.add_session_config_entry(_ORT_FORMAT, "ORT")
        else:
            options.add_session_config_entry(f"{_OUTSIDE}_file_name", f"{Path(save_to).name}.data")
            options.add_session_config_entry(f"{_OUTSIDE}_min_size_in_bytes", "1024")
    return ort.InferenceSession(spec.path, options, providers=provider_list(spec))


def provider_list(settings: SessionSettings) -> list[str | tuple[str, dict[str, str]]]:
    """The providers as ``InferenceSession`` takes them, with their options where there are any."""
    found = ((name, settings.options_of(name)) for name in settings.providers)
    return [(name, options) if options else name for name, options in found]


def demand_provider(provider: str) -> None:
    """Make sure that this ONNX Runtime has an execution provider.

    Raises:
        BadInput: It has not; the sentence lists those that it has.
    """
    import onnxruntime as ort

    available = ort.get_available_providers()
    if provider not in available:
        raise BadInput(
            f"onnxruntime {ort.__version__} has no provider '{provider}': it has {', '.join(available)}."
        )


def session(path: str | Path, settings: SessionSettings) -> ort.InferenceSession:
    """Make a session for a user, in this process.

    Args:
        path: The model file.
        settings: How; the default level is that of ``InferenceSession(path)``.

    Raises:
        BadInput: A provider does not exist, or ONNX Runtime refuses the model.
    """
    try:
        return make(SessionSpec.loading(path, settings))
    except GraphoptError:
        raise
    except Exception as error:
        raise BadInput(f"onnxruntime does not load '{path}': {sentence(error)}") from error


@dataclass(frozen=True, slots=True)
class Opened:
    """What came of making a session.

    Attributes:
        status: ``ok``, or how it ended.
        error: One sentence where it is not ok.
        inputs: Name and type (``tensor(float)``) of every input that must be fed.
        outputs: The same of every output.
        seconds: How long the session took to make; 0 for one that was there.
    """

    status: Status
    error: str = ""
    inputs: tuple[tuple[str, str], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of running a model on several feeds.

    Attributes:
        status: ``ok``, or how the first failure ended.
        error: One sentence where it is not ok.
        feed: The name of the feed that it failed on, empty where the session could not be made.
        outputs: The outputs by name, for every feed up to the first failure.
        create_seconds: How long the session took to make.
        run_seconds: How long each run took in the runtime.
    """

    status: Status
    error: str = ""
    feed: str = ""
    outputs: tuple[Mapping[str, Any], ...] = ()
    create_seconds: float = 0.0
    run_seconds: tuple[float, ...] = ()


class Runtime:
    """Runs models in a worker process.

    Args:
        worker: Gives the process.
        timeout: Seconds that making a session, or one run, may take; None for no limit.
        memory: Bytes that the process may use; None for the worker's default.
    """

    def __init__(
        self,
        worker: Callable[[], Worker] = pool,
        *,
        timeout: float | None = 600.0,
        memory: int | None = None,
    ) -> None:
        self._worker = worker
        self._timeout = timeout
        self._memory = memory

    def open(self, spec: SessionSpec, *, fresh: bool = False, seed: int = 0) -> Opened:
        """Make the session of ``spec``, or find it warm.

        Args:
            spec: The session.
            fresh: Make it anew: random operators start from their seeds again.
            seed: For random operators that have none.

        Raises:
            BadInput: The level or the provider does not exist in this ONNX Runtime.
        """
        reply = self._call("open_session", spec, fresh, seed)
        if reply.status != "ok":
            return Opened(*failure(reply, "Making the session", self._timeout), seconds=reply.seconds)
        return Opened("ok", "", *reply.value)

    def run(
        self, spec: SessionSpec, feeds: Sequence[FeedSet], *, fresh: bool = False, seed: int = 0
    ) -> Outcome:
        """Make the session of ``spec`` once and run it on every feed, up to the first failure."""
        opened = self.open(spec, fresh=fresh, seed=seed)
        if opened.status != "ok":
            return Outcome(opened.status, opened.error, create_seconds=opened.seconds)
        outputs: list[Mapping[str, Any]] = []
        seconds: list[float] = []
        failed = Outcome("ok")
        values: dict[str, dict[str, Any]] = {}
        # Several runs a call: what lies between two runs costs more than a small model's inference.
        # The values of a feed stay in the process: sending a picture costs as much as some models.
        while len(outputs) < len(feeds):
            left = feeds[len(outputs) :]
            reply = self._call("run_session", spec, [feed.key for feed in left], values, runs=len(left))
            values = {}
            if reply.status != "ok":
                failed = self._name_feed(spec, left, reply) if len(left) > 1 else self._failed(reply, left[0])
                break
            outputs.extend(reply.value.outputs)
            seconds.extend(reply.value.seconds)
            if reply.value.error:
                feed = feeds[len(outputs)]
                failed = Outcome("does not run", sentence(reply.value.error), feed.name)
                break
            if reply.value.missing:
                values = {feed.key: dict(feed.arrays) for feed in feeds[len(outputs) :]}
        return replace(
            failed,
            outputs=tuple(outputs),
            create_seconds=opened.seconds,
            run_seconds=tuple(seconds),
        )

    def _name_feed(self, spec: SessionSpec, feeds: Sequence[FeedSet], reply: Reply) -> Outcome:
        """Find the feed that ended the process, by running one after the other."""
        for feed in feeds:
            outcome = self.run(spec, [feed])
            if outcome.status != "ok":
                return replace(outcome, outputs=(), run_seconds=())
        return self._failed(reply, None)

    def _failed(self, reply: Reply, feed: FeedSet | None) -> Outcome:
        status, error = failure(reply, "The run", self._timeout)
        return Outcome(status, error, feed="one of several" if feed is None else feed.name)

    def save(self, spec: SessionSpec, target: Path) -> str:
        """Write the model of ``spec`` as the runtime rewrites it; returns why not, "" where it did."""
        reply = self._call("save_session", spec, str(target))
        return "" if reply.status == "ok" else failure(reply, "Saving the model", self._timeout)[1]

    def block_size(self) -> int | None:
        """How many channels a block of this CPU's layout of images has; None where it has no such layout."""
        reply = self._call("block_size")
        return reply.value if reply.status == "ok" else None

    def close(self, spec: SessionSpec) -> None:
        """Close the session of ``spec`` and free its memory, if it is warm."""
        self._call("close_session", spec)

    def _call(self, function: str, *arguments: object, runs: int = 1) -> Reply:
        flushing = any(isinstance(item, SessionSpec) and item.config.count(_FLUSHING) for item in arguments)
        reply = (_flushing_worker() if flushing else self._worker()).call(
            f"graphopt.numerics.served:{function}",
            *arguments,
            timeout=None if self._timeout is None else self._timeout * runs,
            memory=self._memory,
        )
        if isinstance(reply.exception, BadInput):
            raise reply.exception
        return reply


@functools.cache
def _flushing_worker() -> Worker:
    """A process for sessions that flush denormal numbers: the first one decides for its thread."""
    worker = Worker()
    atexit.register(worker.close)
    return worker


def failure(
    reply: Reply, action: str, timeout: float | None, runtime: str = "onnxruntime"
) -> tuple[Status, str]:
    """How a call that a runtime's process did not answer ended, and the sentence for it."""
    if isinstance(reply.exception, OSError) and reply.exception.errno in NO_ROOM:
        raise reply.exception  # that says nothing of the model
    if reply.status == "error":
        return "does not run", sentence(reply.exception if reply.exception is not None else reply.error)
    if reply.status == "timed out":
        return "timed out", f"{action} did not end within {timeout:g} s."
    if reply.status == "out of memory":
        return "out of memory", f"{action} needs too much memory: the process {reply.error}."
    return "crashed", f"{action} killed {runtime}'s process: {reply.error}."


_OPSET = re.compile(
    r"Opset (\d+) is under development.*support for domain (\S+) is till opset (\d+)", re.DOTALL
)
_IR = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
# What says nothing to a user: the error's class, the file's path (the caller knows it), C++ signatures.
_NOISE = (
    re.compile(r"^.*?\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", re.DOTALL),
    re.compile(r"^Exception during initialization: "),
    re.compile(r"^Load model from .*? failed:"),
    re.compile(r"/\S*?onnxruntime/\S+\.(cc|h):\d+ (?:[^\n]*?\)(?: const)?(?:::<lambda\(.*?\)>)? |\S+ )"),
    re.compile(r"^Non-zero status code returned while running "),
    re.compile(r" (?:Name:|with name )''"),
    re.compile(r"Status Message: "),
    re.compile(r"Please fix either the inputs/outputs or the model\.?"),
)


def sentence(error: BaseException | str) -> str:
    """What ONNX Runtime says of a failure, as one sentence of at most 400 characters."""
    text = str(error).strip() or type(error).__name__
    opset = _OPSET.search(text)
    if opset is not None:
        return (
            f"The model uses opset {opset[1]} of {opset[2]}, and this onnxruntime knows it up to {opset[3]}: "
            "export it at a lower opset, or install a newer onnxruntime."
        )
    version = _IR.search(text)
    if version is not None:
        return (
            f"The model has ir_version {version[1]}, and this onnxruntime reads up to {version[2]}: "
            "export it with an older onnx, or install a newer onnxruntime."
        )
    for noise in _NOISE:
        text = noise.sub("", text)
    text = " ".join(text.split()).rstrip(". ")
    return (text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...") + "."
