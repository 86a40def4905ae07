"""Saves what a running application feeds its model, so that it can be checked on just that.

Standard library only at import: it is meant to be imported by the application.
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from graphopt.errors import BadInput

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

# Values of these stay in memory of the provider, bound by the application.
_PAST = ("run_with_iobinding", "run_with_ort_values", "run_async")
_NAME = "test_data_set_{:06d}"


class Capture:
    """A session that saves feeds and outputs of its runs; made by `capture`.

    It is used in place of the session, or as a context manager, within which the session itself saves.
    Each run that is saved becomes a folder ``test_data_set_N`` of ONNX test data, which appears when it is
    whole.

    Attributes:
        folder: Where they are saved.
        saved: How many runs were saved.
        passed: How many runs were not seen, because they did not go through ``run``.
        error: Why no more are saved, where something went wrong.
    """

    def __init__(self, session: ort.InferenceSession, folder: Path, limit: int, every: int) -> None:
        self._session = session
        self._run = session.run
        self._past = {name: getattr(session, name) for name in _PAST if hasattr(session, name)}
        self.folder = folder
        self._limit, self._every = limit, every
        self._lock = threading.Lock()
        self._runs = itertools.count()
        self._numbers = itertools.count(_first_free(folder))
        self._claimed = 0
        self._before: dict[str, Any] = {}
        self.saved = 0
        self.passed = 0
        self.error = ""

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> Sequence[Any]:
        """Run the session, and save the run where it is one of those to save."""
        outputs = self._run(output_names, input_feed, run_options)
        if self._claim():
            self._save(output_names, input_feed, outputs)
        return outputs

    def __getattr__(self, name: str) -> Any:
        past: dict[str, Any] = vars(self).get("_past", {})
        return self._passing(name, past[name]) if name in past else getattr(self._session, name)

    def __enter__(self) -> Capture:
        """From here on the session itself saves, whoever holds it."""
        patches = {"run": self.run}
        patches |= {name: getattr(self, name) for name in self._past}
        for name, patch in patches.items():
            if name in vars(self._session):
                self._before[name] = vars(self._session)[name]
            setattr(self._session, name, patch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in ("run", *_PAST):
            if name in self._before:
                setattr(self._session, name, self._before[name])
            elif name in vars(self._session):
                delattr(self._session, name)
        self._before.clear()

    def _passing(self, name: str, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                first, self.passed = not self.passed, self.passed + 1
            if first:
                warnings.warn(f"graphopt.capture does not save runs by {name}, only by run.", stacklevel=2)
            return method(*args, **kwargs)

        return call

    def _claim(self) -> bool:
        """Whether the run that just ended is one to save."""
        if next(self._runs) % self._every or self.error:
            return False
        with self._lock:
            if self._claimed >= self._limit:
                return False
            self._claimed += 1
            return True

    def _save(
        self, output_names: Sequence[str] | None, feed: Mapping[str, Any], outputs: Sequence[Any]
    ) -> None:
        """Write one run. An application does not fail because a disk is full: it is warned."""
        try:
            scratch = self.folder / f".capture-{os.getpid()}-{threading.get_ident()}"
            scratch.mkdir()
            try:
                self._write(scratch, output_names, feed, outputs)
                self._place(scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            with self._lock:
                self.saved += 1
        except (OSError, ValueError, TypeError, NotImplementedError) as error:
            self.error = f"{type(error).__name__}: {error}"
            warnings.warn(f"graphopt.capture saves no more runs: {self.error}", stacklevel=4)

    def _place(self, scratch: Path) -> None:
        """Give a folder the next name that is free, other processes considered."""
        while True:
            target = self.folder / _NAME.format(next(self._numbers))
            try:
                os.rename(scratch, target)
            except OSError:
                if not target.exists():
                    raise
                continue
            return

    def _write(
        self,
        folder: Path,
        output_names: Sequence[str] | None,
        feed: Mapping[str, Any],
        outputs: Sequence[Any],
    ) -> None:
        inputs, known = self._session.get_inputs(), self._session.get_outputs()
        for position, port in enumerate(inputs):
            if port.name in feed:
                proto = _proto(feed[port.name], port.type, port.name)
                (folder / f"input_{position}.pb").write_bytes(proto.SerializeToString())
        names = [port.name for port in known]
        for name, value in zip(output_names or names, outputs, strict=True):
            position = names.index(name)
            proto = _proto(value, known[position].type, name)
            (folder / f"output_{position}.pb").write_bytes(proto.SerializeToString())


def _proto(
    value: Any, kind: str, name: str
) -> onnx.TensorProto | onnx.SequenceProto | onnx.MapProto | onnx.OptionalProto:
    """A value as ONNX test data has it."""
    import numpy as np
    from onnx import numpy_helper

    if hasattr(value, "numpy"):
        value = value.numpy()  # an OrtValue
    if kind.startswith("optional"):
        return numpy_helper.from_optional(value, name)
    if kind.startswith("seq(map") or kind.startswith("map"):
        raise TypeError(f"'{name}' is a {kind}, for which ONNX has no test data")
    if kind.startswith("seq"):
        return numpy_helper.from_list(value, name)
    array = np.asarray(value)
    if array.dtype.kind in "USO":
        texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1)]
        return numpy_helper.from_array(np.array(texts, dtype=object).reshape(array.shape), name)
    return numpy_helper.from_array(np.asarray(array, order="C"), name)


def _first_free(folder: Path) -> int:
    numbers = [path.name.rpartition("_")[2] for path in folder.glob("test_data_set_*")]
    return max((int(number) for number in numbers if number.isdigit()), default=-1) + 1


def capture(
    session: ort.InferenceSession, folder: str | Path, *, limit: int = 100, every: int = 1
) -> Capture:
    """Save feeds and outputs of a running application, for ``--inputs`` and ``--reference``.

    Args:
        session: The application's session.
        folder: Where to save; it is made. What an earlier capture saved there stays.
        limit: How many runs to save at most.
        every: Save only every n-th run.

    Returns:
        What to use in place of the session: it has all its methods. As a context manager it makes the
        session itself save, wherever the application holds it, until the context ends.

    Raises:
        BadInput: The folder cannot be made, or a number is below 1.
    """
    if limit < 1 or every < 1:
        raise BadInput("A capture saves at least 1 run, and every first one: give limit and every from 1.")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"Cannot save runs to '{folder}': {error.strerror}.") from error
    return Capture(session, folder, limit, every)
