"""Draws the examples of passes, with the code that draws rewrites in a report, in a headless Chromium.

Each side of an example is an SVG file that needs nothing else. It carries the picture that it shows as JSON,
so that whether it is still true can be told without a browser.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from graphopt.model import Model
from graphopt.numerics.calibrating import with_feeds
from graphopt.pipeline.examples import draw_example, example_of
from graphopt.pipeline.opaque import Toolbox
from graphopt.pipeline.registry import Registry
from graphopt.record.data import NodePicture, Picture
from graphopt.rewrite.passes import Pass

HERE = Path(__file__).parent
FOLDER = HERE / "drawings"
SIDES = ("before", "after")
_ASSETS = HERE.parent / "graphopt" / "report" / "assets"
_METADATA = "{http://www.w3.org/2000/svg}metadata"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def path_of(name: str, side: str) -> Path:
    """The file of one side of a pass's example."""
    return FOLDER / f"{name}.{side}.svg"


def pictured(name: str, side: str) -> Picture:
    """The picture that a drawing shows.

    Raises:
        FileNotFoundError: There is no such drawing.
    """
    content = ElementTree.parse(path_of(name, side)).getroot().findtext(_METADATA)
    return msgspec.json.decode(content or "", type=Picture)


def drawings(names: Iterable[str]) -> dict[str, str]:
    """The drawings of passes as Markdown, by pass."""
    return {name: "\n".join(_images(name)) for name in names}


def _images(name: str) -> Iterator[str]:
    for side, label in zip(SIDES, _labels(pictured(name, SIDES[0])), strict=True):
        yield f"![{label}](drawings/{path_of(name, side).name})"


def _labels(picture: Picture) -> tuple[str, str]:
    """What a reader is told who does not see the drawings."""
    return f"before: {_ops(picture.before)}", f"after: {_ops(picture.after)}"


def _ops(nodes: Iterable[NodePicture]) -> str:
    counts = Counter(node.op for node in nodes)
    return ", ".join(op if count == 1 else f"{count} {op}" for op, count in counts.items()) or "no node"


def at_present(cls: type[Pass]) -> Picture:
    """What the example of a pass and its result are now; a pass that measures does so on drawn feeds."""
    example = example_of(cls)
    if example is None:
        raise SystemExit(f"Pass '{cls.name}' has no example.")
    steps = [item.step for item in example.pipeline.steps()]
    with with_feeds(Toolbox(cache=None), steps, lambda: Model.from_proto(example.before)) as tools:
        return draw_example(cls, tools)


def draw(pictures: Mapping[str, Picture], browser: Any) -> dict[Path, str]:
    """Draw pictures.

    Args:
        pictures: The pictures by the names of their passes.
        browser: A browser of playwright's.

    Returns:
        The content of each file.
    """
    style = "".join((_ASSETS / name).read_text(encoding="utf-8") for name in ("palette.css", "drawing.css"))
    page = browser.new_page()
    assets = [_ASSETS / name for name in ("page.js", "dagre.min.js", "drawing.js")]
    for script in (*assets, HERE / "still.js"):
        page.add_script_tag(content=script.read_text(encoding="utf-8"))
    files: dict[Path, str] = {}
    for name, picture in pictures.items():
        sides = page.evaluate(
            "([content, labels, style]) => Still.stills(content, labels, style)",
            [msgspec.json.encode(picture).decode(), _labels(picture), style],
        )
        files |= {path_of(name, side): text for side, text in zip(SIDES, sides, strict=True)}
    page.close()
    return files


def write() -> None:
    """Draw the examples of all passes, and drop drawings of passes that are no more."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        raise SystemExit("Drawing needs a Chromium on the path.")
    pictures = {name: at_present(cls) for name, cls in sorted(Registry.load().load_all().items())}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        files = draw(pictures, browser)
        browser.close()
    FOLDER.mkdir(exist_ok=True)
    for path in set(FOLDER.glob("*.svg")) - files.keys():
        path.unlink()
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
