"""Writes what is generated: the references, the record's schema, measured tables, and pictures.

``--drawings`` draws the examples of the passes, in a Chromium. For the README, ``--picture MODEL`` draws
``graphopt run`` on a model, ``--picture MODEL PIPELINE PLUGIN.py`` draws ``graphopt diagnose``.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from graphopt.pipeline.describe import render_reference
from graphopt.pipeline.registry import Registry
from graphopt.record.data import Record

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def reference() -> str:
    """The content of passes.md: every pass that comes with graphopt."""
    import drawings

    registry = Registry.load()
    return render_reference(registry, drawings.drawings(registry.load_all()))


def pages() -> dict[str, str]:
    """All generated pages by their file names."""
    import measured
    import pages as made

    compare = measured.fill((HERE / "compare.md").read_text(encoding="utf-8"))
    return {
        "passes.md": reference(),
        "commands.md": made.commands(),
        "record.md": made.record(),
        "compare.md": compare,
    }


def schema() -> str:
    """The JSON Schema of a record, which ships with the package."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Record)), indent=2).decode() + "\n"


def picture_of_diagnosis(model: Path, pipeline: str, plugin: Path) -> None:
    """Diagnose a pipeline on ``model`` and draw the terminal."""
    import graphopt
    from graphopt.record.diagnosed import diagnosis_report

    console = _console()
    typed = f"{model.name} --plugin {plugin.name} --pipeline {pipeline}"
    console.print(f"[bold]$[/] graphopt diagnose {typed} --repro fault")
    os.chdir(model.parent)  # so that the folder has the name that was typed
    found = graphopt.diagnose(model.name, pipeline, plugins=[plugin.resolve()], repro="fault")
    heal = f"graphopt run {typed} --on-failure heal"
    console.print(diagnosis_report(found, heal))
    _draw(console, "diagnose.svg")


def _console() -> Any:
    from rich.console import Console

    return Console(record=True, width=100, force_terminal=True)


def _draw(console: Any, name: str) -> None:
    # Without the fonts that Rich would load from elsewhere: the picture is complete in itself.
    drawn = re.sub(r"@font-face \{.*?\}\n", "", console.export_svg(title="graphopt"), flags=re.DOTALL)
    (HERE / name).write_text(drawn, encoding="utf-8")


def picture(model: Path) -> None:
    """Run the default pipeline on ``model`` and draw the terminal."""
    import graphopt
    from graphopt.record.terminal import render

    console = _console()
    console.print(f"[bold]$[/] graphopt run {model.name}")
    result = graphopt.run(model, cache=False)
    result.save(model.with_suffix(".opt.onnx"))
    if result.record.result is not None:
        result.record.result.path = model.with_suffix(".opt.onnx").name
    console.print(render(result.record))
    _draw(console, "run.svg")


if __name__ == "__main__":
    if sys.argv[1:] == ["--drawings"]:
        import drawings

        drawings.write()
    for name, content in pages().items():
        (HERE / name).write_text(content, encoding="utf-8")
    (HERE.parent / "graphopt" / "record" / "schema.json").write_text(schema(), encoding="utf-8")
    if len(sys.argv) == 3 and sys.argv[1] == "--picture":
        picture(Path(sys.argv[2]))
    elif len(sys.argv) == 5 and sys.argv[1] == "--picture":
        picture_of_diagnosis(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
