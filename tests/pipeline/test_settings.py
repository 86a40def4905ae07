from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import BadInput
from graphopt.pipeline.session_keys import KNOWN_ENTRIES, SETTINGS
from graphopt.pipeline.settings import (
    DISABLED_ENTRY,
    PLAIN,
    SessionSettings,
    parse_session,
    with_disabled,
)

ALL = SessionSettings(
    level="extended",
    providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    provider_options=(("CUDAExecutionProvider", "device_id", "1"),),
    threads=2,
    inter_threads=3,
    execution="parallel",
    memory_pattern=False,
    arena=False,
    spinning=False,
    inter_spinning=True,
    dims=(("batch", 1), ("seq", 8)),
    denotations=(("DATA_BATCH", 4),),
    config=(("session.disable_prepacking", "1"),),
    disabled=("Pad_Fusion",),
)
TEXTS = [
    "level=extended",
    "providers=CUDAExecutionProvider,CPUExecutionProvider",
    "provider-options.CUDAExecutionProvider.device_id=1",
    "threads=2",
    "inter-threads=3",
    "execution=parallel",
    "memory-pattern=false",
    "arena=0",
    "session.intra_op.allow_spinning=0",
    "inter-spinning=true",
    "dims.seq=8",
    "dims.batch=1",
    "denotations.DATA_BATCH=4",
    "session.disable_prepacking=1",
    "disabled=Pad_Fusion",
]


def test_the_names_are_the_fields() -> None:
    assert tuple(field.name.replace("_", "-") for field in fields(SessionSettings)) == SETTINGS


def test_texts_say_everything() -> None:
    assert SessionSettings.of(parse_session(TEXTS)) == ALL


def test_natural_is_the_way_back() -> None:
    natural = ALL.natural()
    assert set(natural) == {field.name for field in fields(SessionSettings)}
    assert SessionSettings.of(natural) == ALL
    assert PLAIN.natural() == {}
    assert SessionSettings.of({}) == PLAIN


def test_it_is_a_value() -> None:
    assert {ALL: 1}[pickle.loads(pickle.dumps(ALL))] == 1
    assert SessionSettings.of(ALL) is ALL


def test_entries_are_complete_and_those_that_decide_values_are_told_apart() -> None:
    assert ALL.entries == {
        "session.intra_op.allow_spinning": "0",
        "session.inter_op.allow_spinning": "1",
        "session.disable_prepacking": "1",
        DISABLED_ENTRY: "Pad_Fusion",
    }
    assert ALL.needed == {"session.disable_prepacking": "1", DISABLED_ENTRY: "Pad_Fusion"}
    assert with_disabled({DISABLED_ENTRY: "B"}, ["C", "A"]) == {DISABLED_ENTRY: "B;A;C"}


def test_what_is_said_later_counts_and_maps_are_merged() -> None:
    base = SessionSettings(threads=2, arena=False, dims=(("a", 1), ("b", 2)))
    found = SessionSettings.of({"threads": 4, "dims": {"b": 3}}, base)
    assert found == SessionSettings(threads=4, arena=False, dims=(("a", 1), ("b", 3)))
    assert SessionSettings.of({"threads": None}, base).threads is None


def test_the_reference_keeps_where_it_runs_and_nothing_else() -> None:
    assert ALL.plain() == SessionSettings(
        level="disable", providers=ALL.providers, provider_options=ALL.provider_options, threads=2
    )


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"thread": 1}, "There is no session setting 'thread': did you mean 'threads'?"),
        ({"set_denormal": 1}, "There is no session setting 'set_denormal'"),
        ({"session.disable_prepack": 1}, "did you mean 'session.disable_prepacking'?"),
        ({"session.nothing.like.it": 1}, "config.session.nothing.like.it takes it unseen"),
        ({"threads": 0}, "'threads' cannot be 0: expected an integer of at least 1"),
        ({"level": "most"}, "'level' cannot be 'most': expected disable, basic"),
        ({"arena": "perhaps"}, "'arena' cannot be 'perhaps': expected true or false"),
        ({"providers": []}, "'providers' needs at least one"),
        ({"dims.batch": "x"}, "'dims' cannot be"),
        ({"session.disable_prepacking": [1]}, "a text or a number is expected"),
        ({"config": {"k" * 1025: "v"}}, "longer than ONNX Runtime takes"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(said: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        SessionSettings.of(said)
    assert words in str(caught.value)


def test_entries_of_providers_and_new_ones_pass() -> None:
    found = SessionSettings.of({"ep.context_enable": 1, "config.session.some_new_one": True})
    assert found.config == (("ep.context_enable", "1"), ("session.some_new_one", "1"))


def test_a_text_of_another_form() -> None:
    with pytest.raises(BadInput, match="Cannot read --session threads: write KEY=VALUE"):
        parse_session(["threads"])


def test_the_known_entries_are_those_of_the_library() -> None:
    """Each key occurs in the installed library, but for those of other processors."""
    import onnxruntime.capi.onnxruntime_pybind11_state as state

    assert state.__file__ is not None
    content = Path(state.__file__).read_bytes()
    missing = {key for key in KNOWN_ENTRIES if key.encode() not in content}
    assert missing <= {
        "mlas.enable_gemm_fastmath_arm64_bfloat16",
        "session.model_external_initializers_file_folder_path",  # joined of two parts there
    }
