"""OpenVINO, in the worker's process (extra ``openvino``)."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import onnx

from graphopt.errors import BadInput

# Where in its sources an exception was raised, and which condition there did not hold.
_NOISE = (
    re.compile(r"Exception from \S+:\d+:\s*"),
    re.compile(r"Check '.*?' failed at \S+:\d+:\s*"),
    re.compile(r"^Loading input model\s*", re.MULTILINE),
    re.compile(r"FrontEnd API failed with \w+:\s*"),
    re.compile(r"Model wasn't fully converted\.\s*"),
    re.compile(r"Summary:\s*"),
    re.compile(r"^-- ", re.MULTILINE),
    re.compile(r"Not available\s*$"),
)


class Loaded:
    """A model compiled for the CPU, with floats computed in float32.

    Args:
        path: The model file.
        threads: Threads of an inference; None for as many as OpenVINO likes.

    Raises:
        RuntimeError: OpenVINO does not read it or does not compile it.
    """

    def __init__(self, path: str, threads: int | None) -> None:
        # Without stubs, and not there for who checks the types of graphopt.
        ov: Any = importlib.import_module("openvino")
        proto = onnx.load(path, load_external_data=False)
        self._names = [output.name for output in proto.graph.output]
        # It likes to compute in what the CPU is fastest at, bfloat16 on some.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = ov.Core()
        with _plain():
            self._compiled = core.compile_model(core.read_model(path), "CPU", settings)
        if len(self._compiled.outputs) != len(self._names):
            raise RuntimeError(f"It has {len(self._compiled.outputs)} outputs for {len(self._names)}.")
        for port in (*self._compiled.inputs, *self._compiled.outputs):
            if port.get_element_type() == ov.Type.bf16:
                raise BadInput("An input or output is bfloat16, which OpenVINO's Python interface lacks.")

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name.

        Args:
            feeds: The values by input name.

        Raises:
            BadInput: A value is no tensor of numbers.
            RuntimeError: It does not run on them.
        """
        given: dict[int, Any] = {}
        for place, port in enumerate(self._compiled.inputs):
            name = next((name for name in port.get_names() if name in feeds), None)
            if name is None:
                continue
            if not isinstance(feeds[name], np.ndarray) or feeds[name].dtype.kind in "OUSV":
                raise BadInput(f"The input '{name}' is no tensor of numbers, and OpenVINO takes only such.")
            given[place] = np.asarray(feeds[name], order="C")  # ascontiguousarray makes a scalar a vector
        request = self._compiled.create_infer_request()
        with _plain():
            request.infer(given)
        outputs = [request.get_output_tensor(place) for place in range(len(self._names))]
        # The tensors are the request's own memory.
        return {name: np.array(tensor.data) for name, tensor in zip(self._names, outputs, strict=True)}


@contextlib.contextmanager
def _plain() -> Generator[None]:
    """Make what OpenVINO raises readable."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        for noise in _NOISE:
            text = noise.sub("", text)
        raise RuntimeError(" ".join(text.split())) from None
