from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import Numerics, OpaquePass, PipelineError, PluginError, RewritePass, Rewriter, SurgeonPass
from graphopt.pipeline.registry import Entry, Registry
from graphopt.pipeline.spec import (
    Fixpoint,
    Pipeline,
    looks_shell_split,
    parse_settings,
    validate_skips,
)
from graphopt.rewrite.gate import Skip


class _Rewrite(RewritePass[Any]):
    numerics = Numerics.EXACT
    roots = ("Add",)

    def match(self, node: Any) -> None:
        return None

    def rewrite(self, match: Any, rw: Rewriter) -> None: ...


class Plain(_Rewrite):
    name = "plain"


@dataclass(frozen=True)
class Tuned(_Rewrite):
    name = "tuned"
    on: bool = False
    count: Annotated[int, msgspec.Meta(ge=0)] = 1
    share: float = 0.5
    label: str = ""
    level: Literal["basic", "extended", "all"] = "basic"
    sizes: tuple[int, ...] = ()
    words: tuple[str, ...] = ("x",)
    pair: tuple[int, str] = (1, "a")
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    limit: int | None = 7
    title: str | None = None
    choice: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.share < 0:
            raise ValueError("share is negative")


class Surgeon(SurgeonPass):
    name = "surgeon"
    numerics = Numerics.EXACT

    def surgery(self, graph: Any) -> None: ...


class Tool(OpaquePass):
    name = "tool"
    numerics = Numerics.REASSOCIATES

    def transform(self, model: Any, disabled: frozenset[str]) -> Any:
        return model


PIPELINES: dict[str, object] = {
    "short": "plain,tuned{count=2}",
    "both": "short,\n  fixpoint(short, surgeon)",
    "object": Pipeline([Plain(), Tuned(on=True)]),
    "loop": "plain,loop-b",
    "loop-b": "loop",
    "wrong": "plain,\n tuned{cuont=3}",
    "number": 3,
}


def entry(name: str, kind: Literal["pass", "pipeline"], found: object) -> Entry:
    return Entry(name, kind, f"acme:{name}", "acme 1.0", lambda: found)


def missing() -> object:
    raise ImportError("no acme")


REGISTRY = Registry(
    [entry(cls.name, "pass", cls) for cls in (Plain, Tuned, Surgeon, Tool)]
    + [entry(name, "pipeline", found) for name, found in PIPELINES.items()]
    + [Entry("broken", "pass", "acme:Broken", "acme 1.0", missing)]
)


def parse(text: str) -> Pipeline:
    return Pipeline.parse(text, REGISTRY)


def options(text: str) -> dict[str, Any]:
    (step,) = parse(text).steps()
    return step.step.changed_options()


def refusal(text: str) -> str:
    with pytest.raises((PipelineError, PluginError)) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestText:
    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("plain", "plain"),
            (" plain ,\n\ttool\n,", "plain,tool"),
            ("plain{}", "plain"),
            ("tuned { count = 2 , on = true }", "tuned{on=true,count=2}"),
            ("tuned{count=1}", "tuned"),
            ("fixpoint(plain,tuned{count=2})", "fixpoint(plain,tuned{count=2})"),
            ("fixpoint(plain){max=20},tool", "fixpoint(plain){max=20},tool"),
            ("fixpoint(plain){max=32}", "fixpoint(plain)"),
            ("fixpoint(plain, fixpoint(tool, surgeon){max=3})", "fixpoint(plain,tool,surgeon)"),
            ("short", "plain,tuned{count=2}"),
            ("tool,both", "tool,plain,tuned{count=2},fixpoint(plain,tuned{count=2},surgeon)"),
            ("object,plain", "plain,tuned{on=true},plain"),
            ("tuned{label='a, b'}", "tuned{label='a, b'}"),
            ('tuned{label="it\'s"}', r"tuned{label='it\'s'}"),
            ("tuned{sizes=[3,4],dims=[batch=1,'a b'=2]}", "tuned{sizes=[3,4],dims=[batch=1,'a b'=2]}"),
        ],
    )
    def test_is_written_back(self, text: str, written: str) -> None:
        pipeline = parse(text)
        assert str(pipeline) == written
        assert parse(written) == pipeline

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("on=true", {"on": True}),
            ("on=1", {"on": True}),
            ("count=3", {"count": 3}),
            ("share=1e-3", {"share": 1e-3}),
            ("share=2", {"share": 2.0}),
            ("share=inf", {"share": float("inf")}),
            ("label=5", {"label": "5"}),
            ("label=none", {"label": "none"}),
            ("label=/a/b-c.onnx:0", {"label": "/a/b-c.onnx:0"}),
            (r"label='a\\\'b'", {"label": r"a\'b"}),
            (r"label='C:\models'", {"label": r"C:\models"}),
            ("level=all", {"level": "all"}),
            ("sizes=[1,2,]", {"sizes": (1, 2)}),
            ("sizes=3", {"sizes": (3,)}),
            ("words=[]", {"words": ()}),
            ("words=['a,b',none]", {"words": ("a,b", "none")}),
            ("pair=[2,b]", {"pair": (2, "b")}),
            ("dims=[batch=1,seq=128]", {"dims": {"batch": 1, "seq": 128}}),
            ("dims=[]", {}),
            ("limit=none", {"limit": None}),
            ("limit=3", {"limit": 3}),
            ("title=none", {}),
            ("title='none'", {"title": "none"}),
            ("title=null", {"title": "null"}),
            ("choice=4", {"choice": 4}),
            ("choice=auto", {}),
        ],
    )
    def test_options(self, text: str, expected: dict[str, Any]) -> None:
        found = options(f"tuned{{{text}}}")
        assert found == expected
        assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}

    def test_instances_are_numbered_in_order(self) -> None:
        steps = parse("tool,fixpoint(plain,tool),plain,tool").steps()
        assert [step.instance for step in steps] == ["tool", "plain", "tool#2", "plain#2", "tool#3"]

    def test_the_items_of_a_fixpoint(self) -> None:
        first, second = parse("plain,fixpoint(tool,surgeon){max=5}").items
        assert isinstance(second, Fixpoint)
        assert not isinstance(first, Fixpoint)
        assert [step.step for step in second.steps] == [Tool(), Surgeon()]
        assert second.max == 5

    def test_pipelines_are_values(self) -> None:
        pipeline = parse("plain,fixpoint(tuned{count=3})")
        assert pickle.loads(pickle.dumps(pipeline)) == pipeline
        assert pipeline == parse("plain , fixpoint( tuned{ count=3 } )")
        assert pipeline != parse("plain,fixpoint(tuned{count=4})")
        assert pipeline != parse("plain,fixpoint(tuned{count=3}){max=3}")
        assert pipeline != parse("plain,tuned{count=3}")


OPTIONS = "its options are on, count, share, label, level, sizes, words, pair, dims, limit, title and choice"


class TestRefusedTexts:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "The pipeline text is empty: it needs a pass."),
            (" \n ", "The pipeline text is empty: it needs a pass."),
            (
                "plain,tunde",
                "Unknown pass or pipeline 'tunde' at position 7 of the pipeline 'plain,tunde': did you mean"
                " 'tuned'? 'graphopt passes' lists them.",
            ),
            (
                "plain,\n  xyzzy",
                "Unknown pass or pipeline 'xyzzy' at line 2, column 3 of the pipeline 'plain, xyzzy':"
                " 'graphopt passes' lists them.",
            ),
            (
                "tuned{cuont=1}",
                "Wrong option at position 7 of the pipeline 'tuned{cuont=1}': pass 'tuned' has no option"
                f" 'cuont': did you mean 'count'? {OPTIONS}.",
            ),
            (
                "plain{k=1}",
                "Wrong option at position 7 of the pipeline 'plain{k=1}': pass 'plain' has no option 'k': it"
                " has no options.",
            ),
            (
                "tuned{on=yes}",
                "Option 'on' of pass 'tuned' at position 10 of the pipeline 'tuned{on=yes}' cannot be 'yes':"
                " expected true or false.",
            ),
            ("tuned{count=-1}", "cannot be '-1': expected an integer at least 0."),
            ("tuned{count=x}", "cannot be 'x': expected an integer at least 0."),
            ("tuned{count=[1]}", "cannot be ['1']: expected an integer at least 0."),
            ("tuned{share=x}", "expected a number."),
            ("tuned{level=al}", "cannot be 'al': expected basic, extended or all."),
            ("tuned{sizes=[1,x]}", "cannot be ['1', 'x']: expected a list [an integer, ...]."),
            ("tuned{sizes=[a=1]}", "expected a list [an integer, ...]."),
            ("tuned{pair=[1]}", "expected a list [an integer, a text]."),
            ("tuned{dims=[3]}", "expected a map [name=an integer, ...]."),
            ("tuned{limit=x}", "expected an integer or none."),
            ("tuned{choice=x}", "expected an integer or auto."),
            ("tuned{share=-1}", "Pass 'tuned' refuses the options {share=-1.0}: share is negative."),
            (
                "tuned{count=1",
                "The '{' at position 6 of the pipeline 'tuned{count=1' is not closed.",
            ),
            ("tuned{sizes=[1,2}", "Expected ',' or ']' after an item, found '}' at position 17 of"),
            ("fixpoint(plain", "The '(' at position 9 of the pipeline 'fixpoint(plain' is not closed."),
            ("plain}", "Expected ',' or the end, found '}' at position 6 of the pipeline 'plain}'."),
            ("plain tool", "Expected ',' or the end, found 'tool' at position 7 of"),
            ("plain,,tool", "Expected the name of a pass or a pipeline, found ',' at position 7 of"),
            ("tuned{count}", "Expected '=' after the option 'count', found '}' at position 12 of"),
            (
                "tuned{count=}",
                "Expected a value (quote it where it is empty or holds such a mark), found '}'",
            ),
            ("tuned{=1}", "Expected the name of an option, found '=' at position 7 of"),
            ("tuned{count=1,count=2}", "Option 'count' at position 15 of the pipeline"),
            ("tuned{dims=[a=1,a=2]}", "Key 'a' at position 17 of the pipeline"),
            ("tuned{dims=[a=1,b]}", "Expected '=' after 'b', found ']'"),
            ("tuned{label='a}", "The quote at position 13 of the pipeline 'tuned{label='a}' is not closed."),
            ("plain(tool)", "'plain' at position 1 of the pipeline 'plain(tool)' takes no passes in parenth"),
            ("fixpoint", "The fixpoint at position 1 of the pipeline 'fixpoint' needs passes in parentheses"),
            ("fixpoint()", "needs passes in parentheses: fixpoint(a,b)."),
            ("fixpoint(plain){rounds=3}", "A fixpoint has no option 'rounds', as at position 17 of"),
            ("fixpoint(plain){max=0}", "Option 'max' of fixpoint at position 21 of"),
            ("fixpoint{max=3}(plain)", "options come last, as in fixpoint(a,b){max=20}."),
            (
                "short{count=2}",
                "'short' at position 1 of the pipeline 'short{count=2}' is a pipeline and takes",
            ),
            (
                "tool,loop",
                "Pipeline 'loop' holds itself (loop > loop-b > loop), at position 1 of pipeline 'loop-b' of"
                " acme 1.0.",
            ),
            (
                "wrong",
                "Wrong option at line 2, column 8 of pipeline 'wrong' of acme 1.0: pass 'tuned' has no option"
                f" 'cuont': did you mean 'count'? {OPTIONS}.",
            ),
            ("number", "The pipeline 'number' of acme 1.0 is neither a text nor a Pipeline, but int."),
            ("broken", "The pass 'broken' of acme 1.0 does not load from acme:Broken (ImportError: no acme)"),
        ],
    )
    def test_message(self, text: str, message: str) -> None:
        assert message in refusal(text)

    def test_a_long_text_is_not_repeated(self) -> None:
        assert "of the pipeline text" in refusal("plain," * 30 + "xyzzy")

    @pytest.mark.parametrize(
        "text",
        [
            "tunedcount=1",
            "tunedon=true",
            "plain,tunedcount=1,tool",
            "tunedsizes=[1",
            "tuned2]",
            "fixpoint(tunedon=1)",
        ],
    )
    def test_what_a_shell_leaves_of_it(self, text: str) -> None:
        assert re.search(r"your shell split the text at the brace: quote it", refusal(text))

    def test_a_text_that_no_shell_saw(self) -> None:
        with pytest.raises(
            PipelineError, match=r"^Expected ',' or the end, found '=' at position 3 of 'base'\.$"
        ):
            Pipeline.parse("ak=1", REGISTRY, title="'base'")


class TestShellSplit:
    @pytest.mark.parametrize(
        "words",
        [
            ["ortlevel=all", "ortx=1"],
            ["ortlevel=all"],
            ["a,ortlevel=all,b", "a,ortx=1,b"],
            ["ak=[1", "a2]"],
            ["a2]"],
            ["a,b", "a,c"],
            ["ak=1", "model.onnx"],
            ["run", "m.onnx", "--pipeline", "ortlevel=all", "ortx=1"],
            ["run", "m.onnx", "--pipeline=ortlevel=all", "--pipeline=ortx=1"],
            ["ak=1,b{m=2}", "al=2,b{m=2}"],
        ],
    )
    def test_yes(self, words: list[str]) -> None:
        assert looks_shell_split(words)

    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["default"],
            ["ort{level=all}"],
            ["fixpoint(a,b{k=2,l=[x=1]}){max=3}"],
            ["a{k='=]'}"],
            ["default", "model.onnx"],
            ["a,b", "model.onnx"],
            ["run", "m.onnx", "n.onnx", "--set", "ort.level=all", "--dim", "batch=1"],
            ["export", "yolov8n.pt", "imgsz=640", "half=True"],
        ],
    )
    def test_no(self, words: list[str]) -> None:
        assert not looks_shell_split(words)


class TestObjects:
    def test_objects_and_texts(self) -> None:
        pipeline = Pipeline(
            [Plain(), "tuned{count=2},tool", Fixpoint.of(Plain(), Surgeon(), max=4), parse("short")], REGISTRY
        )
        assert (
            str(pipeline) == "plain,tuned{count=2},tool,fixpoint(plain,surgeon){max=4},plain,tuned{count=2}"
        )
        assert parse(str(pipeline)) == pipeline
        assert [s.instance for s in pipeline.steps()][-2:] == ["plain#3", "tuned#2"]

    @pytest.mark.parametrize("one", ["plain", Plain(), Fixpoint.of(Plain()), parse("plain")])
    def test_a_single_one(self, one: Any) -> None:
        assert [s.instance for s in Pipeline(one, REGISTRY).steps()] == ["plain"]

    def test_none(self) -> None:
        assert Pipeline().steps() == ()
        assert str(Pipeline([])) == ""

    def test_passes_that_nobody_registered(self) -> None:
        class Local(_Rewrite):
            name = "local"

        assert str(Pipeline([Local()])) == "local"

    def test_options_are_checked_and_normalised(self) -> None:
        (step,) = Pipeline([Tuned(sizes=[1, 2], share=1)]).steps()  # pyright: ignore[reportArgumentType]
        assert step.step == Tuned(sizes=(1, 2), share=1.0)
        with pytest.raises(PipelineError, match=r"Option 'count' of pass 'tuned' cannot be '3': expected"):
            Pipeline([Tuned(count="3")])  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize(
        ("item", "message"),
        [
            (Plain, r"holds passes, not classes: write Plain\(\)"),
            (3, "cannot hold 3: give passes, fixpoints, pipelines or texts"),
            (Fixpoint(()), "needs at least one pass"),
            (
                Fixpoint.of(Plain(), max=0),
                "Option 'max' of fixpoint cannot be 0: expected an integer at least 1",
            ),
        ],
    )
    def test_other_things(self, item: Any, message: str) -> None:
        with pytest.raises(PipelineError, match=message):
            Pipeline([item])

    def test_an_improper_pass(self) -> None:
        class Nameless(_Rewrite): ...

        with pytest.raises(PluginError, match="Nameless has no name"):
            Pipeline([Nameless()])


class TestWithOptions:
    def test_every_use_of_a_pass_or_one(self) -> None:
        pipeline = parse("tuned,fixpoint(tuned{on=true},plain),tuned")
        every = pipeline.with_options({"tuned.count": "5"})
        assert str(every) == "tuned{count=5},fixpoint(tuned{on=true,count=5},plain),tuned{count=5}"
        one = pipeline.with_options({"tuned#2.count": 6, "tuned#3.level": "all"})
        assert str(one) == "tuned,fixpoint(tuned{on=true,count=6},plain),tuned{level=all}"
        assert [s.instance for s in one.steps()] == [s.instance for s in pipeline.steps()]
        assert str(pipeline) == "tuned,fixpoint(tuned{on=true},plain),tuned"

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("sizes", "[1,2]", (1, 2)),
            ("sizes", "1", (1,)),
            ("sizes", [1, 2], (1, 2)),
            ("dims", "[a=1,b=2]", {"a": 1, "b": 2}),
            ("dims", {"a": 1}, {"a": 1}),
            ("label", "a, {b}", "a, {b}"),
            ("label", "[a]", "[a]"),
            ("label", "'quoted'", "quoted"),
            ("label", "", ""),
            ("title", "none", None),
            ("limit", "none", None),
            ("limit", None, None),
            ("on", "true", True),
        ],
    )
    def test_values(self, key: str, value: Any, expected: object) -> None:
        (step,) = parse("tuned").with_options({f"tuned.{key}": value}).steps()
        assert step.step.options()[key] == expected

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            (
                "tunde.count",
                "1",
                "Cannot set 'tunde.count': the pipeline has no pass 'tunde': did you mean 'tuned'? it has"
                " plain and tuned.",
            ),
            ("tuned#3.count", "1", "has no pass 'tuned#3'"),
            (
                "tuned.cuont",
                "1",
                "Cannot set 'tuned.cuont': pass 'tuned' has no option 'cuont': did you mean",
            ),
            ("tuned.count", "x", "Option 'count' of pass 'tuned' cannot be 'x': expected an integer"),
            ("tuned.count", "1]", "Expected the end, found ']' at position 2 of the value '1]'"),
            ("tuned.count", 1.5, "cannot be 1.5: expected an integer"),
            ("tuned.share", "-1", "refuses the options"),
            ("tuned", "x", "Cannot set 'tuned': write PASS.OPTION=VALUE."),
        ],
    )
    def test_errors(self, key: str, value: Any, message: str) -> None:
        with pytest.raises(PipelineError) as caught:
            parse("plain,tuned,tuned").with_options({key: value})
        assert message in str(caught.value)

    def test_dashes_stand_for_underscores(self) -> None:
        @dataclass(frozen=True)
        class Dashed(_Rewrite):
            name = "dashed"
            two_words: int = 1

        pipeline = Pipeline([Dashed()])
        assert str(pipeline.with_options({"dashed.two-words": 2})) == "dashed{two_words=2}"

    def test_settings_of_the_command_line(self) -> None:
        assert parse_settings(["ort.level=all", "tuned#2.label=a=b"]) == {
            "ort.level": "all",
            "tuned#2.label": "a=b",
        }
        for wrong in ("ort.level", "level=all", "ort"):
            with pytest.raises(PipelineError, match=f"Cannot read --set {wrong}: write PASS.OPTION=VALUE"):
                parse_settings([wrong])


class TestSkips:
    @pytest.mark.parametrize("text", ["plain", "tool/Fusion", "plain@node", "plain#2@a/b", "surgeon", "tool"])
    def test_fine(self, text: str) -> None:
        validate_skips([Skip.parse(text)], parse("plain,tool,plain,surgeon"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "plian",
                "Cannot skip 'plian': the pipeline has no pass 'plian': did you mean 'plain'? it has plain,"
                " tool and surgeon.",
            ),
            ("plain#3", "has no pass 'plain#3': did you mean 'plain#2'? it has plain, tool, plain#2 and"),
            ("tuned", "has no pass 'tuned'"),
            ("plain/Fusion", "pass 'plain' has no components"),
            ("tool@node", "changes the whole model at once and cannot be kept from one node; --skip tool"),
        ],
    )
    def test_wrong(self, text: str, message: str) -> None:
        with pytest.raises(PipelineError) as caught:
            validate_skips([Skip.parse(text)], parse("plain,tool,plain,surgeon"))
        assert message in str(caught.value)

    def test_an_empty_pipeline(self) -> None:
        with pytest.raises(PipelineError, match="has no pass 'plain': it is empty"):
            validate_skips([Skip("plain")], Pipeline())


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
tuned = st.builds(
    Tuned,
    on=st.booleans(),
    count=st.integers(0, 2**70),
    share=st.floats(0, allow_nan=False),
    label=texts,
    level=st.sampled_from(["basic", "extended", "all"]),
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    words=st.lists(texts, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), texts),
    dims=st.dictionaries(texts, st.integers(), max_size=3),
    limit=st.none() | st.integers(),
    title=st.none() | texts | st.sampled_from(["none", "None", "null", "[", "''", "\\"]),
    choice=st.integers() | st.just("auto"),
)
passes = tuned | st.sampled_from([Plain(), Tool(), Surgeon()])
fixpoints = st.builds(Fixpoint.of, passes, passes, max=st.integers(1, 50))


@settings(deadline=None)
@given(st.lists(passes | fixpoints, min_size=1, max_size=5))
def test_every_pipeline_has_a_text_that_reads_back(items: list[Any]) -> None:
    pipeline = Pipeline(items)
    again = parse(str(pipeline))
    assert again == pipeline
    assert [s.instance for s in again.steps()] == [s.instance for s in pipeline.steps()]
    for old, new in zip(pipeline.steps(), again.steps(), strict=True):
        assert {k: type(v) for k, v in new.step.options().items()} == {
            k: type(v) for k, v in old.step.options().items()
        }


@settings(deadline=None)
@given(st.text(st.sampled_from("plain,tuned{}()[]='\"\\ \n=short1"), max_size=30))
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    try:
        parse(text)
    except PipelineError as error:
        assert str(error).endswith(".")  # noqa: PT017
