"""Reports for people, made of a record alone: HTML to look at, Markdown for a comment."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import BadInput

if TYPE_CHECKING:
    from graphopt.record.data import Record

HTML = (".html", ".htm")
MARKDOWN = (".md", ".markdown")


def check_report_file(path: Path, kept: Collection[Path] = ()) -> None:
    """Refuse a report that cannot be written, before anything takes its time.

    Args:
        path: The file.
        kept: Files that must not be replaced, resolved.

    Raises:
        BadInput: It cannot be written there, is of a suffix that names no kind of report, or is one of
            ``kept``.
    """
    from graphopt.storage import check_target

    if path.suffix.lower() not in (*HTML, *MARKDOWN):
        raise BadInput(f"Cannot write a report to {path}: name it FILE.html or FILE.md.")
    check_target(path, kept)


def write_report(record: Record, path: Path, command: str = "", *, kept: Collection[Path] = ()) -> None:
    """Write a report, all of it or nothing; the suffix says which kind.

    Args:
        record: What to show.
        path: The file.
        command: What was typed to come to this; one that does the same is made up if left out.
        kept: Files that must not be replaced, resolved.

    Raises:
        BadInput: See `check_report_file`.
    """
    check_report_file(path, kept)
    if path.suffix.lower() in HTML:
        from graphopt.report.html import write_html

        write_html(record, path, command)
    else:
        from graphopt.report.markdown import write_markdown

        write_markdown(record, path, command)
