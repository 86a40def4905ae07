"""Writes what is generated: pass reference, record schema; with ``--picture MODEL`` the README's picture."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec

from graphopt.pipeline.describe import render_reference
from graphopt.pipeline.registry import Registry
from graphopt.record.data import Record

HERE = Path(__file__).parent


def reference() -> str:
    """The content of passes.md: every pass that comes with graphopt."""
    return render_reference(Registry.load())


def schema() -> str:
    """The JSON Schema of a record, which ships with the package."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Record)), indent=2).decode() + "\n"


def picture(model: Path) -> None:
    """Run the default pipeline on ``model`` and draw the terminal."""
    from rich.console import Console

    import graphopt
    from graphopt.record.terminal import render

    console = Console(record=True, width=92, force_terminal=True)
    console.print(f"[bold]$[/] graphopt run {model.name}")
    result = graphopt.run(model, cache=False)
    result.save(model.with_suffix(".opt.onnx"))
    if result.record.result is not None:
        result.record.result.path = model.with_suffix(".opt.onnx").name
    console.print(render(result.record))
    # Without the fonts that Rich would load from elsewhere: the picture is complete in itself.
    drawn = re.sub(r"@font-face \{.*?\}\n", "", console.export_svg(title="graphopt"), flags=re.DOTALL)
    (HERE / "run.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    (HERE / "passes.md").write_text(reference(), encoding="utf-8")
    (HERE.parent / "graphopt" / "record" / "schema.json").write_text(schema(), encoding="utf-8")
    if len(sys.argv) == 3 and sys.argv[1] == "--picture":
        picture(Path(sys.argv[2]))
