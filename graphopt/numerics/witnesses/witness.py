"""The runtimes beside ONNX Runtime that can look at a model, and where to get them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.errors import BadInput, MissingExtra

_TORCH = (
    "PyTorch reads no ONNX files, and no converter that there is reads most models: what --reference "
    "torch:FILE.pt does is to check the source against the module that it was exported from."
)


@dataclass(frozen=True, slots=True)
class Witness:
    """A runtime that can look at a model.

    Attributes:
        name: What ``--runtime`` calls it.
        title: What sentences call it.
        package: The distribution that it comes in, which is also what is imported.
        module: Where the class ``Loaded`` is that runs it, in the worker's process: made of a path and the
            number of threads, it has ``run(feeds)``, which gives the outputs by name.
        extra: The extra of graphopt that installs it; empty for one that is always there.
        most_feeds: On how many sets of feeds it is asked, the smallest; None for all.
        seconds: How long loading a model, or one run, may take at most; None for as long as a session may.
    """

    name: str
    title: str
    package: str
    module: str
    extra: str = ""
    most_feeds: int | None = None
    seconds: float | None = None

    @property
    def version(self) -> str:
        """The version that is installed."""
        return importlib.metadata.version(self.package)

    @property
    def missing(self) -> str:
        """One sentence on how to get it, empty where it is there."""
        if importlib.util.find_spec(self.package) is not None:
            return ""
        return f"{self.title} is not installed: pip install 'graphopt[{self.extra}]'."


WITNESSES: tuple[Witness, ...] = (
    Witness("openvino", "OpenVINO", "openvino", "graphopt.numerics.witnesses.openvino", "openvino"),
    # It computes in numpy and in loops of Python: a YOLOv8n of 640 x 640 takes it a hundred times longer.
    Witness(
        "reference",
        "onnx's reference evaluator",
        "onnx",
        "graphopt.numerics.witnesses.evaluator",
        most_feeds=2,
        seconds=120.0,
    ),
)


def find_witnesses(names: Sequence[str]) -> tuple[Witness, ...]:
    """The witnesses of these names, each once.

    Raises:
        BadInput: There is none of such a name.
        MissingExtra: One is not installed.
    """
    there = {witness.name: witness for witness in WITNESSES}
    found: list[Witness] = []
    for name in dict.fromkeys(names):
        if name not in there:
            hint = _TORCH if name == "torch" else f"there are {', '.join(there)}."
            raise BadInput(f"There is no runtime '{name}' to ask: {hint}")
        if there[name].missing:
            raise MissingExtra(there[name].missing)
        found.append(there[name])
    return tuple(found)
