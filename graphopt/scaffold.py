"""Writes the project of a new pass: ``graphopt new-pass``."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jinja2

import graphopt
from graphopt.errors import BadInput
from graphopt.pipeline.plugins import PASS_NAME
from graphopt.pipeline.registry import Registry

Kind = Literal["rewrite", "pattern", "surgeon"]

_WORD_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\s]+")
_RESERVED = ("fixpoint", "none")


@dataclass(frozen=True, slots=True)
class Project:
    """A project that was written.

    Attributes:
        name: The name of the pass.
        folder: The project's folder.
        source: The file of the pass in it.
        test: The file of its test in it.
    """

    name: str
    folder: Path
    source: Path
    test: Path


def write_project(name: str, kind: Kind = "rewrite", folder: Path | None = None) -> Project:
    """Write an installable project with one pass that works and passes its own test.

    Args:
        name: The name of the pass, in any of the usual spellings.
        kind: What the pass is made of.
        folder: The folder to make; by default one of the pass's name.

    Raises:
        BadInput: The name cannot be one or is taken, or the folder is there or cannot be made.
    """
    proper = _checked(name)
    snake = proper.replace("-", "_")
    words = {
        "name": proper,
        "project": f"graphopt-{proper}",
        "package": f"graphopt_{snake}",
        "module": snake,
        "cls": _class_name(proper),
        "kind": kind,
        "version": graphopt.__version__,
    }
    target = folder if folder is not None else Path(proper)
    if target.exists():
        raise BadInput(f"{target} is there already: give another folder with --folder.")
    source, test = Path(words["package"]) / f"{snake}.py", Path("tests") / f"test_{snake}.py"
    files = {
        Path("pyproject.toml"): "pyproject.toml",
        Path("README.md"): "README.md",
        Path(words["package"]) / "__init__.py": "package.py",
        Path(words["package"]) / "py.typed": "",
        source: f"{kind}.py",
        test: f"test_{kind}.py",
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("graphopt", "templates/new_pass"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Python and TOML, not HTML
    )
    texts = {
        path: environment.get_template(f"{template}.jinja").render(words) if template else ""
        for path, template in files.items()
    }
    _write(target, texts)
    return Project(proper, target, source, test)


def _checked(name: str) -> str:
    proper = re.sub(r"-+", "-", _WORD_BORDER.sub("-", name.strip())).lower()
    if PASS_NAME.fullmatch(proper) is None or proper in _RESERVED or keyword.iskeyword(_class_name(proper)):
        raise BadInput(
            f"'{name}' cannot be the name of a pass: use words of letters and digits, like my-pass."
        )
    registry = Registry.load()
    if registry.is_registered(proper):
        owner = f" of {registry.owner(proper)}" if not registry_is_broken(registry, proper) else ""
        raise BadInput(f"There is a pass or pipeline '{proper}'{owner} already: choose another name.")
    if _class_name(proper) in graphopt.__all__:
        raise BadInput(
            f"'{name}' would be the class {_class_name(proper)} of graphopt itself: choose another name."
        )
    package = f"graphopt_{proper.replace('-', '_')}"
    if importlib.util.find_spec(package) is not None:
        raise BadInput(
            f"There is a package {package} already, which '{proper}' would be in: choose another name."
        )
    return proper


def registry_is_broken(registry: Registry, name: str) -> bool:
    """Whether a registered name cannot be used, so that nobody owns it."""
    return any(problem.name == name for problem in registry.problems)


def _class_name(proper: str) -> str:
    return "".join(word.capitalize() for word in proper.split("-"))


def _write(target: Path, texts: dict[Path, str]) -> None:
    """Write all files or none."""
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".graphopt-new-", dir=target.parent))
        for path, text in texts.items():
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / path).write_text(text, encoding="utf-8")
        scratch.chmod(0o755)
        scratch.rename(target)
    except OSError as error:
        raise BadInput(f"The project cannot be written to {target}: {error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
