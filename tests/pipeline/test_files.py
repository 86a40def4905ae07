from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from graphopt import Numerics, OpaquePass, Pipeline, PipelineError, PluginError, RewritePass, Rewriter
from graphopt.pipeline.files import (
    CheckSettings,
    PipelineFile,
    read_pipeline,
    read_pipeline_file,
    write_pipeline_file,
)
from graphopt.pipeline.registry import Entry, Registry
from graphopt.pipeline.settings import SessionSettings
from graphopt.pipeline.toml_lines import line_of, lines_of_keys
from graphopt.rewrite.gate import Skip


class Plain(RewritePass[Any]):
    name, roots, numerics = "plain", ("Add",), Numerics.EXACT

    def match(self, node: Any) -> None:
        return None

    def rewrite(self, match: Any, rw: Rewriter) -> None: ...


@dataclass(frozen=True)
class Tool(OpaquePass):
    name, numerics = "tool", Numerics.EXACT
    level: str = "basic"
    count: int = 1
    limit: int | None = 3
    sizes: tuple[int, ...] = ()
    dims: dict[str, int] = field(default_factory=dict[str, int])

    def transform(self, model: Any, disabled: frozenset[str]) -> Any:
        return model


def missing() -> object:
    raise ImportError("no acme")


REGISTRY = Registry(
    [
        Entry("plain", "pass", "acme:Plain", "acme 1.0", lambda: Plain),
        Entry("tool", "pass", "acme:Tool", "acme 1.0", lambda: Tool),
        Entry("broken", "pass", "acme:Broken", "acme 1.0", missing),
        Entry("default", "pipeline", "acme:DEFAULT", "acme 1.0", lambda: "plain,tool"),
        Entry("portable", "pipeline", "acme:PORTABLE", "acme 1.0", lambda: "fixpoint(plain)"),
    ]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my.toml"


def read(path: Path, text: str) -> PipelineFile:
    path.write_text(text)
    return read_pipeline_file(path, REGISTRY)


def test_everything(path: Path) -> None:
    (path.parent / "val").mkdir()
    for name in ("b.jpg", "a.jpg", "c.npz"):
        (path.parent / "val" / name).touch()
    found = read(
        path,
        """
base = "portable"
before = ["tool"]
after = ["tool{count=4}", "plain"]
skip = ["plain@/model.9/cv1/conv", "tool/Fusion", "tool#2"]
[set.tool]
level = "a, b"          # taken as it is
sizes = [1, 2]
dims = {batch = 1}
[set."tool#2"]
limit = "none"
"""
        + """
[check]
inputs = ["val/*.jpg", "val/c.npz"]
on-failure = "heal"
check = "off"
atol = 1
rtol = {output0 = 1e-3}
seed = 5
samples = 2
dim = {batch = 4}
reference = "torch:best.pt"
provider = "CPUExecutionProvider"
threads = 2
timeout = 30
""",
    )
    first = "tool{level='a, b',sizes=[1,2],dims=[batch=1]}"
    second = "tool{level='a, b',count=4,limit=none,sizes=[1,2],dims=[batch=1]}"
    assert str(found.pipeline) == f"{first},fixpoint(plain),{second},plain"
    assert found.skips == (
        Skip("plain", node="/model.9/cv1/conv"),
        Skip("tool", component="Fusion"),
        Skip("tool#2"),
    )
    folder = path.parent
    assert found.check == CheckSettings(
        inputs=tuple(str(folder / "val" / name) for name in ("a.jpg", "b.jpg", "c.npz")),
        on_failure="heal",
        check="off",
        atol=1.0,
        rtol={"output0": 1e-3},
        seed=5,
        samples=2,
        dim={"batch": 4},
        reference=f"torch:{folder / 'best.pt'}",
        provider="CPUExecutionProvider",
        threads=2,
        timeout=30.0,
    )
    assert found.path == path


@pytest.mark.parametrize(
    ("text", "pipeline"),
    [
        ("", "plain,tool"),
        ('base = "portable"', "fixpoint(plain)"),
        ('passes = ["plain", "tool{count=2},plain"]', "plain,tool{count=2},plain"),
        ("passes = []", ""),
        ('before = "plain"', "plain,plain,tool"),
        ("[set.tool]\ncount = 2", "plain,tool{count=2}"),
        ("set.tool.count = 2", "plain,tool{count=2}"),
    ],
)
def test_pipelines(text: str, pipeline: str, path: Path) -> None:
    assert str(read(path, text).pipeline) == pipeline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'passes = ["plain"]\n\n[check]\non-falure = "stop"',
            ":4: unknown key 'on-falure' in [check]: did you mean 'on-failure'? the keys are check,"
            " on-failure, inputs, dim, seed, samples, special, atol, rtol, reference, pixels, runtime,"
            " provider, threads and timeout.",
        ),
        (
            '# first\nbse = "portable"',
            ":2: unknown key 'bse' in the file: did you mean 'base'? the keys are base, passes, before,"
            " after, skip, set, check and session.",
        ),
        (
            '[check]\nskip = ["plain"]',
            ":2: unknown key 'skip' in [check]: move it above the first [table], 'skip'",
        ),
        ("atol = 1", ":1: unknown key 'atol' in the file: it belongs under [check]."),
        (
            "[check]\non-failure = 'halt'",
            ":2: 'check.on-failure' cannot be 'halt': expected stop, rollback or heal.",
        ),
        ("[check]\natol = -1", ":2: 'check.atol' cannot be -1: expected a number of at least 0"),
        ("[check]\nsamples = 0", ":2: 'check.samples' cannot be 0: expected an integer of at least 1."),
        ("[check]\nseed = '1'", ":2: 'check.seed' cannot be '1': expected an integer."),
        ("[check]\ndim = {a = 0}", ":2: 'check.dim' cannot be {'a': 0}: expected a table of sizes"),
        ("check = 3", ":1: 'check' cannot be 3: expected a table."),
        ('[check]\ninputs = ["x.npz",\n "*.jpg"]', ":2: 'x.npz' matches no file or folder in"),
        ("base = 3", ":1: 'base' cannot be 3: expected the name of a pipeline."),
        ("passes = [1]", ":1: 'passes' cannot be [1]: expected a list of texts."),
        ('base = "default"\npasses = ["plain"]', ":2: give either 'base' or 'passes', not both."),
        (
            'passes = [\n  "plain",\n  "plian",\n]',
            ":1: Unknown pass or pipeline 'plian' at position 1 of 'passes': did you mean 'plain'? 'graphopt"
            " passes' lists them.",
        ),
        (
            'base = "defualt"',
            ":1: Unknown pass or pipeline 'defualt' at position 1 of 'base': did you mean 'default'",
        ),
        (
            "\nafter = ['tool{cuont=1}']",
            ":2: Wrong option at position 6 of 'after': pass 'tool' has no option",
        ),
        (
            "passes = ['tool{k']",
            ":1: Expected '=' after the option 'k', found the end at position 7 of 'passes'.",
        ),
        ("passes = ['']", ":1: 'passes' is empty: it needs a pass."),
        (
            "[set.tol]\ncount = 1",
            ":2: Cannot set 'tol.count': the pipeline has no pass 'tol': did you mean 'tool'?",
        ),
        (
            "[set.tool]\nlevel = 'x'\ncuont = 1",
            ":3: Cannot set 'tool.cuont': pass 'tool' has no option 'cuont': did",
        ),
        ("[set.tool]\ncount = '1'", ":2: Option 'count' of pass 'tool' cannot be '1': expected an integer."),
        ("set = {tool = {count = 'x'}}", ":1: Option 'count' of pass 'tool' cannot be 'x'"),
        ("[set]\ntool = 3", ":2: 'set.tool' cannot be 3: expected a table [set.PASS] of options."),
        (
            "\n\nskip = ['plain', 'tol']",
            ":3: Cannot skip 'tol': the pipeline has no pass 'tol': did you mean 'tool'",
        ),
        ("skip = ['a/b@c']", ":1: Cannot read the skip 'a/b@c'"),
        ("passes = ['plain']\nx = = 3", ":2: this is not TOML: Invalid value."),
        ("passes = ['plain'", ":1: this is not TOML: Unclosed array."),
        ("base = 'a'\nbase = 'b'", ":2: this is not TOML: Cannot overwrite a value."),
    ],
)
def test_errors_have_file_line_and_key(text: str, message: str, path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        read(path, text)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(
        PipelineError, match=r"^Cannot read the pipeline file .*my\.toml: No such file or directory\.$"
    ):
        read_pipeline_file(path, REGISTRY)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PipelineError, match=r"my\.toml: it is not UTF-8 text\.$"):
        read_pipeline_file(path, REGISTRY)
    with pytest.raises(PipelineError, match="Is a directory"):
        read_pipeline_file(path.parent, REGISTRY)


def test_a_broken_plugin_is_named(path: Path) -> None:
    with pytest.raises(PluginError, match=r"'broken' of acme 1\.0"):
        read(path, "passes = ['broken']")


def test_inputs_that_hold_glob_characters_are_taken_as_they_are(path: Path) -> None:
    (path.parent / "a[1].npz").touch()
    assert read(path, "[check]\ninputs = 'a[1].npz'").check.inputs == (str(path.parent / "a[1].npz"),)


def test_inputs_below_a_folder_that_holds_glob_characters(tmp_path: Path) -> None:
    folder = tmp_path / "run [1]"
    folder.mkdir()
    (folder / "a.npz").touch()
    found = read(folder / "my.toml", "[check]\ninputs = ['*.npz']")
    assert found.check.inputs == (str(folder / "a.npz"),)


class TestReadPipeline:
    def test_a_file_by_its_suffix_or_type(self, path: Path) -> None:
        path.write_text("passes = ['plain']\nskip = ['plain']")
        for source in (path, str(path)):
            found = read_pipeline(source, REGISTRY)
            assert (str(found.pipeline), found.skips, found.path) == ("plain", (Skip("plain"),), path)

    @pytest.mark.parametrize(
        "source", ["default", "plain,tool", ["plain", Tool()], Pipeline([Plain(), Tool()])]
    )
    def test_anything_else(self, source: Any) -> None:
        assert read_pipeline(source, REGISTRY) == PipelineFile(Pipeline([Plain(), Tool()]))

    def test_from_toml(self, path: Path) -> None:
        path.write_text("passes = ['plain']\n[set.plain]\n")
        assert Pipeline.from_toml(path, REGISTRY) == Pipeline([Plain()])
        path.write_text("passes = ['plain']\n[check]\nseed = 1")
        with pytest.raises(PipelineError, match="has more than a pipeline"):
            Pipeline.from_toml(path, REGISTRY)


def test_lines_of_keys() -> None:
    text = '''# a = 1
a = """
b = 2 # "
[c]
"""
d = [ # [e]
  "]", '[',
  {f = 1},
]
"g.h" . i = {j = "}"}

  [ k . 'l' ]
m = "\\"" # x

n.o = 1
n.p = """a""""
'''
    lines = lines_of_keys(text)
    assert lines == {
        ("a",): 2,
        ("d",): 6,
        ("g.h",): 10,
        ("g.h", "i"): 10,
        ("k", "l"): 12,
        ("k", "l", "m"): 13,
        ("k", "l", "n"): 15,
        ("k", "l", "n", "o"): 15,
        ("k", "l", "n", "p"): 16,
    }
    assert line_of(lines, ("g.h", "i", "j")) == 10
    assert line_of(lines, ("nowhere",)) == 1


def test_session_entries(path: Path) -> None:
    text = """[session]
threads = 2
spinning = false
"session.set_denormal_as_zero" = true
session.disable_prepacking = 1
providers = "CPUExecutionProvider"
config = {"new.key" = "x"}
[session.dims]
batch = 1
"""
    found = read(path, text).session
    assert found == SessionSettings(
        threads=2,
        spinning=False,
        dims=(("batch", 1),),
        config=(
            ("new.key", "x"),
            ("session.disable_prepacking", "1"),
            ("session.set_denormal_as_zero", "1"),
        ),
    )
    for text, words in (
        ("session = 1", ":1: 'session' cannot be 1: expected a table of session settings"),
        ("session = {a = 1}", ":1: There is no session setting 'a'"),
        ('[session]\n"a.b" = "c"', ":2: ONNX Runtime has no session entry 'a.b' that is known here"),
        ("[session]\nthreads = 0", ":2: The session setting 'threads' cannot be 0: expected an integer"),
    ):
        with pytest.raises(PipelineError, match=re.escape(words)):
            read(path, text)


def test_a_written_file_reads_as_what_it_was_written_from(path: Path) -> None:
    pipeline = Pipeline("plain,fixpoint(plain,tool{count=2}),tool{level=x}", REGISTRY)
    skips = (Skip.parse('plain@sub::odd "name"\\of~1'), Skip.parse("tool"), Skip.parse("tool/Part"))
    session = SessionSettings.of(
        {
            "config": {"key.of": "A;B"},
            "optimization.disable_specified_optimizers": "A;B",
            "level": "extended",
            "dims": {"N": 2},
            "disabled": ["Part"],
            "provider-options": {"X": {"a": "1"}},
            "arena": False,
        }
    )
    write_pipeline_file(path, pipeline, skips, session, "two\nlines")
    found = read_pipeline_file(path, REGISTRY)
    assert found.pipeline == pipeline
    assert found.skips == skips
    assert found.session == session
    assert path.read_text().startswith("# two\n# lines\n")
