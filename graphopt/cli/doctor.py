"""``graphopt doctor``."""

from __future__ import annotations

from graphopt.cli import options as o


def doctor(json: o.Json = False) -> int:
    """Check that everything graphopt needs is there and works.

    Example: graphopt doctor
    """
    from rich.table import Table
    from rich.text import Text

    from graphopt.cli.health import examine
    from graphopt.cli.output import show, show_json

    report = examine()
    if json:
        show_json([{"name": item.name, "ok": item.ok, "detail": item.detail} for item in report])
    else:
        table = Table.grid(padding=(0, 2, 0, 0))
        for item in report:
            mark = "ok" if item.ok else ("--" if item.optional else "FAIL")
            table.add_row(mark, item.name, Text(item.detail, overflow="fold"))
        show(table)
    return 0 if all(item.ok or item.optional for item in report) else 1
