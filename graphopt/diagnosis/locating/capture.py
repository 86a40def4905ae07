"""Inner values of a model, a bounded number of bytes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime as ort

from graphopt.numerics.runtime import SessionSpec, provider_list
from graphopt.numerics.served import run_values
from graphopt.numerics.values import Array

_Item = TypeVar("_Item")

CHUNK_BYTES = 128 << 20
"""What the values of one model that are held at a time may take."""
_FIRST = 8
_GROWTH = 4
_FOLDER = "session.model_external_initializers_file_folder_path"


class Capture:
    """A model of which any value can be asked for.

    Each call makes a session that has no outputs but those asked for: the runtime would keep every output of
    a session in memory up to the end of a run.

    Args:
        path: The model file.
        spec: How it is run; its path and its level are of no matter.
    """

    def __init__(self, path: Path, spec: SessionSpec) -> None:
        self._spec = spec
        self.path = path
        self._folder = path.resolve().parent
        self._proto = onnx.load(path, load_external_data=False)
        self._types = {info.name: info for info in self._proto.graph.output}

    def run(self, names: Sequence[str], feed: Mapping[str, Any], times: int = 1) -> list[dict[str, Array]]:
        """The values of ``names`` in each of several runs; those that are no tensors are left out.

        Raises:
            Exception: Whatever ONNX Runtime raises.
        """
        if not names:
            return [{} for _ in range(times)]
        session = self._session(names)
        found = [run_values(session, feed, frozenset(names))[0] for _ in range(times)]
        return [
            {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
            for values in found
        ]

    def _session(self, names: Sequence[str]) -> ort.InferenceSession:
        outputs = self._proto.graph.output
        del outputs[:]
        outputs.extend(self._types.get(name, onnx.ValueInfoProto(name=name)) for name in names)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(_FOLDER, str(self._folder))
        for key, value in self._spec.config:
            options.add_session_config_entry(key, value)
        for name, size in self._spec.dims:
            options.add_free_dimension_override_by_name(name, size)
        if self._spec.threads is not None:
            options.intra_op_num_threads = self._spec.threads
        ort.set_seed(0)
        providers = provider_list(self._spec)
        return ort.InferenceSession(self._proto.SerializeToString(), options, providers=providers)


class Pace:
    """How many values fit into memory together, as far as those so far tell."""

    def __init__(self) -> None:
        self.count = _FIRST

    def chunks(self, items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
        """The items in parts; what was noted of one decides on the size of the next."""
        begin = 0
        while begin < len(items):
            chunk = items[begin : begin + self.count]
            begin += len(chunk)
            yield chunk

    def note(self, count: int, size: int) -> None:
        """Take in how many bytes some values took."""
        each = max(size / count, 1.0)
        self.count = max(1, min(int(CHUNK_BYTES / each), self.count * _GROWTH))


def captured(path: str, spec: SessionSpec, names: Sequence[str], feed: Mapping[str, Any]) -> dict[str, Array]:
    """What a worker is asked for: some values of a model on a feed; what is no tensor is left out."""
    return Capture(Path(path), spec).run(names, feed)[0]
