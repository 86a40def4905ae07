"""The feeds of a run as files, for passes that measure the model on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

_INDEX = "feeds.json"
DRAWN = "calibrated on feeds that were drawn at random"
"""How the sentence begins that says so."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The feeds that a run is checked on, as `OpaquePass.transform_with_feeds` gets them.

    Iterating gives the inputs of one feed after the other by name; only one is in memory at a time.

    Attributes:
        folder: Where they lie.
        count: How many there are.
        drawn: Whether they were drawn, as nobody gave any: then what is measured on them says little.
        digest: A digest of all values.
        kept: A folder in which a pass may keep what it measured of this model on these feeds, for the next
            time that it runs on both with other components switched off.
    """

    folder: Path
    count: int
    drawn: bool
    digest: str
    kept: Path | None = None

    @property
    def note(self) -> str:
        """The sentence for the record: on what was calibrated."""
        if self.drawn:
            return f"{DRAWN} ({self.count}): give real data with --inputs"
        return f"calibrated on {self.count} feed{'s' if self.count > 1 else ''} of --inputs"

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        import ml_dtypes
        import numpy as np

        index: list[list[tuple[str, str]]] = json.loads((self.folder / _INDEX).read_text())
        for number, ports in enumerate(index):
            with np.load(_file(self.folder, number)) as stored:
                yield {
                    name: stored[f"{place}"].view(getattr(ml_dtypes, dtype)) if dtype else stored[f"{place}"]
                    for place, (name, dtype) in enumerate(ports)
                }


def write_feeds(folder: Path, feeds: Iterable[Mapping[str, Any]]) -> int:
    """Write feeds where a `Calibration` finds them; returns how many.

    Raises:
        BadInput: An input is no tensor of numbers.
    """
    import numpy as np

    folder.mkdir(parents=True)
    index: list[list[tuple[str, str]]] = []
    for number, feed in enumerate(feeds):
        ports: list[tuple[str, str]] = []
        arrays: dict[str, Any] = {}
        for place, (name, value) in enumerate(feed.items()):
            if not isinstance(value, np.ndarray) or value.dtype.kind == "O":
                raise BadInput(f"Nothing can be calibrated on input '{name}': it is no tensor of numbers.")
            # Types that numpy does not know are stored as bits.
            foreign = value.dtype.kind == "V" or type(value.dtype.type(0)).__module__ != "numpy"
            ports.append((name, str(value.dtype) if foreign else ""))
            arrays[f"{place}"] = value.view(f"u{value.dtype.itemsize}") if foreign else value
        # Not by keyword names of the inputs: these may be any text.
        np.savez(_file(folder, number), **arrays)
        index.append(ports)
    (folder / _INDEX).write_text(json.dumps(index))
    return len(index)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.npz"
