"""What ``graphopt fuzz`` shows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from graphopt.fuzzing.campaign import Campaign, Finding, FuzzOptions
from graphopt.properties.wording import feed_text, model_text


class Watching:
    """Shows on stderr how far an attack is, if that is a terminal."""

    def __init__(self, options: FuzzOptions, *, off: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=off or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("0 models", total=options.count)

    def __enter__(self) -> Watching:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: Campaign) -> None:
        """Show how many models have been tried."""
        text = f"{done.models} models, {done.fired} changed, {len(done.findings)} failing"
        self._bar.update(self._task, completed=done.models, description=text)


def as_text(title: str, done: Campaign, saved: Sequence[Path]) -> str:
    """The failing models, then the summary."""
    blocks = [_finding(title, finding) for finding in done.findings]
    wrong = f"{len(done.findings)} failing" if done.findings else "nothing is wrong"
    lines = [
        f"{title}: {_count(done.models, 'model')} in {done.seconds:.1f} s, changed {done.fired}"
        f" ({done.share:.0%}) by {_count(done.rewrites, 'rewrite')}; {wrong}"
    ]
    if done.refused:
        lines.append(f"{_count(done.refused, 'model')} refused by a pass")
    unfit = sum(done.unfit.values())
    if unfit:
        lines.append(f"{_count(unfit, 'result')} not run, as neither runtime nor reference runs the source")
    if done.foreign:
        lines.append(f"Not generated, give a model that has them with --models: {', '.join(done.foreign)}")
    elif done.models and not done.fired:
        lines.append(
            "The pass changed nothing, so nothing is shown: give models that it changes with --models"
        )
    lines += [f"saved    {path}" for path in saved]
    return "\n".join([*blocks, *lines])


def _finding(title: str, finding: Finding) -> str:
    nodes = len(finding.model.graph.node)
    parts = [
        f"{title}: {finding.fault.text} ({finding.fault.kind})",
        f"model {finding.number} ({finding.origin}), {_count(finding.nodes, 'node')} shrunk to {nodes}:",
        "",
        _indented(model_text(finding.model)),
        "",
    ]
    if finding.feeds:
        parts += ["on the feed:", _indented(feed_text(finding.feeds)), ""]
    if finding.applied.model is not None:
        parts += ["becomes:", _indented(model_text(finding.applied.model)), ""]
    return "\n".join(parts)


def as_data(done: Campaign, saved: Sequence[Path]) -> dict[str, Any]:
    """The same as data."""
    return {
        "models": done.models,
        "changed": done.fired,
        "share": round(done.share, 4),
        "rewrites": done.rewrites,
        "refused": done.refused,
        "not_run": sum(done.unfit.values()),
        "not_generated": list(done.foreign),
        "seconds": round(done.seconds, 3),
        "failing": [
            {
                "number": finding.number,
                "origin": finding.origin,
                "kind": finding.fault.kind,
                "reason": finding.fault.text,
                "nodes_before": finding.nodes,
                "nodes": len(finding.model.graph.node),
                "model": model_text(finding.model, shorten=False),
                "feeds": {name: value.tolist() for name, value in finding.feeds.items()},
            }
            for finding in done.findings
        ],
        "saved": [str(path) for path in saved],
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
