from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import onnxruntime as ort
import pytest

from graphopt.numerics import abilities
from graphopt.pipeline.worker import Reply


def test_this_onnxruntime_can_do_all_that_graphopt_needs() -> None:
    found = abilities.examine()
    assert [item.name for item in found if not item.ok and not item.optional] == []
    by_name = {item.name: item.detail for item in found}
    assert by_name["version"] == ort.__version__
    assert int(by_name["names in the verbose log"].split()[0]) > 20
    assert by_name["disabled optimizers"] == "honoured"
    assert by_name["ORT format"] == by_name["weights beside the model"] == "written and read"
    assert "CPUExecutionProvider" in by_name["providers"]


@pytest.mark.parametrize(
    ("version", "ok"), [("1.16.3", False), ("1.19.2", False), ("1.23.0", True), ("2.0.0", True)]
)
def test_an_old_version_is_told_to_update(version: str, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", version)
    found = abilities.version()
    assert found.ok is ok
    assert found.optional is (version == "1.19.2")
    assert ("pip install -U onnxruntime" in found.detail) is not ok


def test_what_is_lacking_says_what_it_is_for() -> None:
    class Lame:
        def call(self, function: str, **_: Any) -> Reply:
            if function.endswith(":saves"):
                return Reply("crashed", error="was killed by SIGSEGV")
            return Reply("ok", "no effect of a disabled rule", output="nothing")

    found = {item.name: item for item in abilities.examine(lambda: nullcontext(Lame()))}  # pyright: ignore
    assert found["saving what is optimized"].detail.startswith("was killed by SIGSEGV. the pass ort does")
    assert found["disabled optimizers"].detail.startswith("no effect of a disabled rule: no part of ort")
    assert found["names in the verbose log"].detail.startswith("no names of graph transformers: diagnose")
    assert not any(item.ok for name, item in found.items() if name != "version")
