"""Every built-in pass has an example that it changes and keeps right, and drawings of what it makes of it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from graphopt import OpaquePass, Pass
from graphopt.pipeline.registry import Registry
from graphopt.testing import assert_example

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PASSES: Mapping[str, type[Pass]] = Registry.load().load_all()
SIDES = ("before", "after")
_SVG = "{http://www.w3.org/2000/svg}"
_LINKS = (f"{_SVG}image", f"{_SVG}use", f"{_SVG}script", f"{_SVG}foreignObject")


@pytest.fixture(scope="module")
def drawings() -> Any:
    """The module that draws."""
    spec = importlib.util.spec_from_file_location("docs_drawings", DOCS / "drawings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.partition(";")[0].strip().partition("==") for line in lines if "==" in line)
    return {_normal(name): version for name, _, version in pins}


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def require_packages(cls: type[Pass], *, as_pinned: bool = False) -> None:
    """Skip where a tool is missing, or is not the version that was drawn."""
    pinned = _pinned()
    for package in cls.packages if issubclass(cls, OpaquePass) else ():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"needs {package}")
        if as_pinned and version != pinned[_normal(package)]:
            pytest.skip(f"{package} {version} may make something else of it than {pinned[_normal(package)]}")


@pytest.mark.parametrize("name", sorted(PASSES))
def test_the_example_is_valid_changed_and_kept_right(name: str) -> None:
    require_packages(PASSES[name])
    assert_example(PASSES[name])


@pytest.mark.parametrize("name", sorted(PASSES))
def test_the_drawings_show_what_the_pass_does(name: str, drawings: Any) -> None:
    require_packages(PASSES[name], as_pinned=True)
    picture = drawings.at_present(PASSES[name])
    for side in SIDES:
        assert drawings.pictured(name, side) == picture, "run docs/generate.py --drawings"


@pytest.mark.parametrize("name", sorted(PASSES))
@pytest.mark.parametrize("side", SIDES)
def test_a_drawing_stands_alone(name: str, side: str, drawings: Any) -> None:
    root = ElementTree.parse(drawings.path_of(name, side)).getroot()
    nodes = getattr(drawings.pictured(name, side), side)
    drawn = [group for group in root.iter(f"{_SVG}g") if "node" in group.get("class", "").split()]
    assert len(drawn) == len(nodes)
    for group, node in zip(drawn, nodes, strict=True):
        assert (group.findtext(f"{_SVG}title") or "").startswith(node.op)
    assert not [element.tag for element in root.iter() if element.tag in _LINKS]
    style = root.findtext(f"{_SVG}style") or ""
    assert "prefers-color-scheme: dark" in style
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_has_the_drawings_and_texts_of_all_passes(drawings: Any) -> None:
    page = (DOCS / "passes.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## ([\w-]+)\n(.*?)(?=^## |^# |\Z)", page, re.DOTALL | re.MULTILINE))
    for name in PASSES:
        images = re.findall(r"^!\[(before|after): ([^\]]+)\]\(([^)]+)\)$", sections[name], re.MULTILINE)
        assert [(side, DOCS / path) for side, _, path in images] == [
            (side, drawings.path_of(name, side)) for side in SIDES
        ]
        assert all(ops for _, ops, _ in images)
        assert "```text\n" in sections[name]
        order = [
            sections[name].index(text) for text in ("![before", "**Why it pays.", "**Numerics.", "**Source.")
        ]
        assert order == sorted(order)


def test_there_are_no_other_drawings(drawings: Any) -> None:
    wanted = {drawings.path_of(name, side) for name in PASSES for side in SIDES}
    assert set(drawings.FOLDER.iterdir()) == wanted


def test_the_drawings_are_as_the_report_draws(drawings: Any, browser: Any) -> None:
    drawn = drawings.draw({name: drawings.pictured(name, "before") for name in PASSES}, browser)
    for path, text in drawn.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run docs/generate.py --drawings"
