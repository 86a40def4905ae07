"""``graphopt doctor``."""

from __future__ import annotations

from graphopt.cli import options as o


def doctor(json: o.Json = False) -> int:
    """Check that everything graphopt needs is there and works.

    Example: graphopt doctor
    """
    from graphopt.cli.health import examine
    from graphopt.cli.output import show, show_json

    report = examine()
    if json:
        show_json([{"name": item.name, "ok": item.ok, "detail": item.detail} for item in report])
    else:
        width = max(len(item.name) for item in report)
        for item in report:
            mark = "ok  " if item.ok else ("--  " if item.optional else "FAIL")
            show(f"{mark} {item.name:<{width}}  {item.detail}")
    return 0 if all(item.ok or item.optional for item in report) else 1
