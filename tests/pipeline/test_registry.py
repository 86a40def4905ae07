from __future__ import annotations

import importlib.metadata
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import PipelineError, PluginError
from graphopt.pipeline.registry import Entry, Problem, Registry

PLUGIN = '''
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from graphopt import Numerics, OpaquePass, Rewriter, RewritePass, SurgeonPass

class _Base(RewritePass[Any]):
    def match(self, node): return None
    def rewrite(self, match, rw): ...

@dataclass(frozen=True)
class Mine(_Base):
    """Do mine."""
    name = "mine"
    roots = ("Add",)
    numerics = Numerics.EXACT
    limit: int = 2
'''


def write(folder: Path, text: str, name: str = "plugin.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def improper(folder: Path, body: str) -> str:
    """The error for a plugin file with this code after the common part."""
    path = write(folder, PLUGIN + body)
    with pytest.raises(PluginError) as caught:
        Registry.load([path])
    return str(caught.value)


def entry(name: str, found: object, owner: str = "somebody 1.0", **more: Any) -> Entry:
    return Entry(name, more.get("kind", "pass"), more.get("target", f"m:{name}"), owner, lambda: found)


def failing(error: BaseException) -> Entry:
    def load() -> object:
        raise error

    return Entry("broken", "pass", "gone:Broken", "someone 2.1", load)


@pytest.fixture
def mine(tmp_path: Path) -> Any:
    return Registry.load([write(tmp_path, PLUGIN)]).get("mine")


class FakeDistribution(importlib.metadata.Distribution):
    """An installed package that has entry points and nothing else."""

    def __init__(self, name: str, version: str, entry_points: str) -> None:
        self._files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "entry_points.txt": entry_points,
        }

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(path)


def install(monkeypatch: pytest.MonkeyPatch, *distributions: FakeDistribution) -> None:
    points = [point for distribution in distributions for point in distribution.entry_points]

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [point for point in points if point.group == group]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


class TestEntryPoints:
    def test_listing_imports_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        points = "[graphopt.passes]\nfuse = no_such_module:Fuse\n"
        points += "[graphopt.pipelines]\nmine = no_such_module:MINE\n"
        install(monkeypatch, FakeDistribution("acme", "3.2", points))
        registry = Registry.load()
        assert [(e.name, e.owner, e.target) for e in registry.passes()] == [
            ("fuse", "acme 3.2", "no_such_module:Fuse")
        ]
        assert [e.name for e in registry.pipelines()] == ["mine"]
        assert registry.is_pipeline("mine")
        assert not registry.is_pipeline("fuse")
        assert registry.problems == []

    def test_a_broken_plugin_is_named_where_it_is_used_and_hides_nothing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.syspath_prepend(str(tmp_path))
        write(tmp_path, PLUGIN, "acme_good.py")
        write(tmp_path, "import no_such_dependency\n", "acme_bad.py")
        install(
            monkeypatch,
            FakeDistribution("acme-bad", "1.0", "[graphopt.passes]\nbad = acme_bad:Bad\n"),
            FakeDistribution("acme-good", "1.0", "[graphopt.passes]\nmine = acme_good:Mine\n"),
        )
        registry = Registry.load()
        assert [e.name for e in registry.passes()] == ["bad", "mine"]
        with pytest.raises(PluginError) as caught:
            registry.get("bad")
        assert str(caught.value) == (
            "The pass 'bad' of acme-bad 1.0 does not load from acme_bad:Bad (ModuleNotFoundError: No module"
            " named 'no_such_dependency'): mend or remove it."
        )
        assert registry.load_all() == {"mine": registry.get("mine")}
        assert registry.problems == [Problem("bad", str(caught.value))]
        assert [e.name for e in registry.passes()] == ["mine"]
        with pytest.raises(PluginError, match="acme-bad"):
            registry.get("bad")

    def test_two_owners_of_one_name(self, mine: Any) -> None:
        registry = Registry(
            [
                entry("mine", mine, "a 1.0"),
                entry("same", mine, "a 1.0"),
                entry("same", mine, "b 2.0", target="n:X"),
            ]
        )
        message = (
            "The name 'same' is claimed by a 1.0 (pass m:same) and by b 2.0 (pass n:X): uninstall or rename"
            " one of them."
        )
        assert registry.problems == [Problem("same", message)]
        assert [e.name for e in registry.passes()] == ["mine"]
        assert registry.get("mine") is mine
        with pytest.raises(PluginError, match=r"a 1\.0.*b 2\.0"):
            registry.get("same")

    def test_a_pass_and_a_pipeline_of_one_name(self, mine: Any) -> None:
        registry = Registry([entry("mine", mine, "a 1.0"), entry("mine", "x", "b 2.0", kind="pipeline")])
        assert "a 1.0 (pass m:mine) and by b 2.0 (pipeline m:mine)" in registry.problems[0].message

    def test_one_entry_point_that_is_seen_twice(self, mine: Any) -> None:
        registry = Registry([entry("mine", mine), entry("mine", mine)])
        assert registry.get("mine") is mine
        assert registry.problems == []

    @pytest.mark.parametrize("error", [ImportError("gone"), RuntimeError("boom"), SystemExit("out")])
    def test_whatever_an_import_raises(self, error: BaseException) -> None:
        with pytest.raises(PluginError, match=r"'broken' of someone 2\.1 .*(gone|boom|out)"):
            Registry([failing(error)]).get("broken")

    @pytest.mark.parametrize("name", ["Upper", "under_score", "fixpoint", "none", "a b"])
    def test_names_that_a_text_could_not_hold(self, name: str, mine: Any) -> None:
        registry = Registry([entry(name, mine)])
        assert f"'{name}' of somebody 1.0 cannot be the name of a pass" in registry.problems[0].message
        assert registry.passes() == ()

    def test_a_class_of_another_name(self, mine: Any) -> None:
        with pytest.raises(PluginError, match=r"'yours' of somebody 1\.0 .* calls itself 'mine'"):
            Registry([entry("yours", mine)]).get("yours")

    @pytest.mark.parametrize("found", [3, "text", int, pytest])
    def test_an_entry_point_to_something_else(self, found: object) -> None:
        with pytest.raises(
            PluginError, match="not a class derived from RewritePass, SurgeonPass or OpaquePass"
        ):
            Registry([entry("mine", found)]).get("mine")

    def test_unknown_names(self, mine: Any) -> None:
        registry = Registry([entry("mine", mine), entry("default", "mine", kind="pipeline")])
        with pytest.raises(PipelineError) as caught:
            registry.get("mines")
        assert str(caught.value) == (
            "Unknown pass 'mines': did you mean 'mine'? 'graphopt passes' lists them."
        )
        with pytest.raises(PipelineError, match=r"^Unknown pass 'zzz': 'graphopt passes' lists them\.$"):
            registry.get("zzz")
        with pytest.raises(PipelineError, match="'default' is a pipeline, not a pass"):
            registry.get("default")
        with pytest.raises(PipelineError, match=r"Unknown pipeline 'defualt': did you mean 'default'\?"):
            registry.pipeline("defualt")


class TestPluginFiles:
    def test_finds_what_the_file_defines(self, tmp_path: Path) -> None:
        path = write(tmp_path, PLUGIN)
        registry = Registry.load([str(path)])
        (found,) = [e for e in registry.passes() if e.plugin]
        assert (found.name, found.owner) == ("mine", f"the plugin {path}")
        cls = registry.get("mine")
        assert cls.__name__ == "Mine"
        assert cls().options() == {"limit": 2}

    def test_a_pass_of_a_file_can_be_pickled(self, tmp_path: Path) -> None:
        path = write(tmp_path, PLUGIN)
        registry = Registry.load([path])
        ((module, file),) = registry.plugin_files()
        assert file == str(path)
        assert sys.modules[module].__file__ == file
        step = registry.get("mine")()
        assert pickle.loads(pickle.dumps(step)) == step

    def test_the_same_file_is_the_same_module_and_an_edited_one_is_not(self, tmp_path: Path) -> None:
        path = write(tmp_path, PLUGIN)
        first, again = Registry.load([path]), Registry.load([path])
        assert first.get("mine") is again.get("mine")
        write(tmp_path, PLUGIN.replace("limit: int = 2", "limit: int = 3"))
        assert Registry.load([path]).get("mine")().options() == {"limit": 3}
        assert first.get("mine")().options() == {"limit": 2}

    def test_files_of_one_name_in_two_folders(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        one = write(tmp_path / "a", PLUGIN)
        two = write(tmp_path / "b", PLUGIN.replace('"mine"', '"other"'))
        registry = Registry.load([one, two])
        assert registry.get("mine") is not registry.get("other")

    def test_a_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(tmp_path))
        (tmp_path / "acme_package").mkdir()
        write(tmp_path / "acme_package", "from acme_package.inner import Mine\n", "__init__.py")
        write(tmp_path / "acme_package", PLUGIN, "inner.py")
        registry = Registry.load(["acme_package"])
        assert registry.get("mine").__module__ == "acme_package.inner"
        assert registry.plugin_files() == ()

    def test_a_module_whose_package_is_installed_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(tmp_path))
        write(tmp_path, PLUGIN, "acme_inner.py")
        write(tmp_path, "from acme_inner import Mine\n", "acme_outer.py")
        install(monkeypatch, FakeDistribution("acme", "1.0", "[graphopt.passes]\nmine = acme_outer:Mine\n"))
        registry = Registry.load(["acme_inner"])
        assert registry.problems == []
        assert registry.get("mine").__module__ == "acme_inner"

    def test_a_file_that_claims_a_taken_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(tmp_path))
        write(tmp_path, PLUGIN, "acme_taken.py")
        install(monkeypatch, FakeDistribution("acme", "1.0", "[graphopt.passes]\nmine = acme_taken:Mine\n"))
        path = write(tmp_path, PLUGIN)
        with pytest.raises(PluginError, match=rf"acme 1\.0 .* the plugin {path}"):
            Registry.load([path]).get("mine")

    @pytest.mark.parametrize(
        ("text", "cause"),
        [
            ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
            ("def (", "SyntaxError: invalid syntax"),
            ("1 / 0", "ZeroDivisionError: division by zero"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("raise KeyError", "(KeyError)"),
        ],
    )
    def test_a_file_that_does_not_import(self, text: str, cause: str, tmp_path: Path) -> None:
        path = write(tmp_path, text)
        with pytest.raises(PluginError) as caught:
            Registry.load([path])
        assert str(caught.value).startswith(f"The plugin {path} does not import (")
        assert cause in str(caught.value)
        kept = Registry.load([path], keep_going=True)
        assert kept.problems == [Problem(str(path), str(caught.value))]
        assert kept.plugin_files() == ()

    def test_what_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(PluginError, match=r"There is no plugin file .*gone\.py"):
            Registry.load([tmp_path / "gone.py"])
        with pytest.raises(PluginError, match=r"The plugin no_such\.module does not import .*install it"):
            Registry.load(["no_such.module"])
        monkeypatch.chdir(tmp_path)
        write(tmp_path, PLUGIN, "beside.py")
        monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
        with pytest.raises(PluginError, match=r"give its path, beside\.py"):
            Registry.load(["beside"])

    def test_a_file_without_passes(self, tmp_path: Path) -> None:
        path = write(tmp_path, "from graphopt import RewritePass\nVALUE = 3\n")
        with pytest.raises(PluginError, match="defines no pass: derive a class from RewritePass"):
            Registry.load([path])


HEAD = """
@dataclass(frozen=True)
class Bad(_Base):
    name, roots, numerics = 'bad', ('Add',), Numerics.EXACT
"""


class TestImproperPasses:
    @pytest.mark.parametrize(
        ("field", "message"),
        [
            ("k: int", "has no default: give it one"),
            ("k: complex = 1j", "has the type complex, which a pipeline text cannot express: use bool, int"),
            ("k: list[int] = field(default_factory=list)", "list[int], which a pipeline text cannot express"),
            ("k: int | str = 1", "int | str, which a pipeline text cannot express"),
            ("k: bool | int = 1", "bool | int, which"),
            ("k: dict[int, int] = field(default_factory=dict)", "dict[int, int], which"),
            ("k: int = 'a'", "is 'a', which is not an integer"),
            ("k: Literal['a', 'b'] = 'c'", "is 'c', which is not a or b"),
            ("k: Missing = 1", "cannot be resolved (name 'Missing' is not defined): import it outside of"),
            ("k: int = field(default=1, init=False)", "has init=False"),
            ("numerics: int = 1", "'numerics' of class"),
        ],
    )
    def test_options(self, field: str, message: str, tmp_path: Path) -> None:
        error = improper(tmp_path, f"{HEAD}    {field}\n")
        assert error.startswith(f"The plugin {tmp_path / 'plugin.py'} holds an improper pass: ")
        assert message in error
        assert "Bad" in error

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (
                "class Bad(_Base):\n    name, roots, numerics = 'bad', ('Add',), Numerics.EXACT\n"
                "    k: int = 1\n    kind: ClassVar[int] = 3\n    l: int = 2\n",
                "Bad declares 'k' and 'l' without being a dataclass: put @dataclass(frozen=True) above it",
            ),
            (
                "class Bad(_Base):\n    roots, numerics = ('Add',), Numerics.EXACT\n",
                "Bad has no name: give it",
            ),
            (
                "class Bad(_Base):\n    name, roots, numerics = 'Bad Name', ('Add',), Numerics.EXACT\n",
                "Bad has the name 'Bad Name': give it one of lower-case words",
            ),
            ("class Bad(_Base):\n    name, roots = 'bad', ('Add',)\n", "numerics = Numerics.EXACT"),
            ("class Bad(_Base):\n    name, numerics = 'bad', Numerics.EXACT\n", "needs a tuple of operators"),
            (
                "class Bad(_Base):\n    name, roots, numerics = 'bad', 'Add', Numerics.EXACT\n",
                'roots = ("Conv",)',
            ),
            (
                "class Bad(RewritePass[Any]):\n    name, roots, numerics = 'bad', ('Add',), Numerics.EXACT\n"
                "    def match(self, node): return None\n",
                "Bad does not define rewrite",
            ),
            ("class Bad(OpaquePass):\n    name, numerics = 'bad', Numerics.EXACT\n", "neither transform nor"),
            (
                HEAD
                + "    k: int = 0\n    def __post_init__(self):\n        raise ValueError('k must be 1')\n",
                "cannot be made with its default options (ValueError: k must be 1)",
            ),
        ],
    )
    def test_classes(self, code: str, message: str, tmp_path: Path) -> None:
        assert message in improper(tmp_path, code)

    def test_an_entry_point_to_an_improper_pass(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(tmp_path))
        write(tmp_path, f"{PLUGIN}{HEAD}    k: int\n", "acme_improper.py")
        install(monkeypatch, FakeDistribution("acme", "1.0", "[graphopt.passes]\nbad = acme_improper:Bad\n"))
        registry = Registry.load()
        message = (
            "Pass 'bad' of acme 1.0 is not a proper pass: Option 'k' of class acme_improper.Bad has no"
            " default: give it one."
        )
        with pytest.raises(PluginError) as caught:
            registry.get("bad")
        assert str(caught.value) == message
        assert registry.problems == [Problem("bad", message)]

    @pytest.mark.parametrize(
        "field",
        [
            "k: bool = False",
            "k: int = 1",
            "k: float = 1",
            "k: str = ''",
            "k: Literal['a', 'b'] = 'a'",
            "k: Literal[1, 2] = 2",
            "k: int | None = None",
            "k: str | None = 'x'",
            "k: int | Literal['auto'] = 'auto'",
            "k: tuple[int, ...] = ()",
            "k: tuple[int, str] = (1, 'a')",
            "k: tuple[tuple[int, int], ...] = ((1, 2),)",
            "k: dict[str, int] = field(default_factory=dict)",
            "k: tuple[str, ...] | None = None",
        ],
    )
    def test_options_that_are_fine(self, field: str, tmp_path: Path) -> None:
        path = write(tmp_path, f"{PLUGIN}{HEAD}    {field}\n")
        assert Registry.load([path]).get("bad")().changed_options() == {}

    def test_a_pass_without_options_needs_no_decorator(self, tmp_path: Path) -> None:
        code = "class Plain(_Base):\n    name, roots, numerics = 'plain', ('Add',), Numerics.EXACT\n"
        assert Registry.load([write(tmp_path, PLUGIN + code)]).get("plain")().options() == {}
