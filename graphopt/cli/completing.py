"""What the shell offers where a name of a pass or pipeline is due.

Names come from the entry points alone, so that nothing of the engine or of a plugin is imported.
"""

from __future__ import annotations

import re

# As in graphopt.pipeline.registry, which would import the engine.
PASSES, PIPELINES = "graphopt.passes", "graphopt.pipelines"


def pipeline_texts(incomplete: str) -> list[str]:
    """Pipelines and passes for the last step of a pipeline text."""
    found = re.fullmatch(r"(?P<done>.*[,(])?(?P<last>[^,({]*)", incomplete, re.DOTALL)
    if found is None:
        return []
    done, last = found["done"] or "", found["last"]
    return [f"{done}{name}" for name in _names(PIPELINES, PASSES) if name.startswith(last)]


def pass_names(incomplete: str) -> list[str]:
    """Passes."""
    return [name for name in _names(PASSES) if name.startswith(incomplete)]


def any_names(incomplete: str) -> list[str]:
    """Passes and pipelines."""
    return [name for name in _names(PIPELINES, PASSES) if name.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """Passes with the dot that their option follows."""
    return [f"{name}." for name in pass_names(incomplete)]


def session_settings(incomplete: str) -> list[str]:
    """Settings of a session, and its entries."""
    from graphopt.pipeline.session_keys import KNOWN_ENTRIES, SETTINGS

    return [f"{name}=" for name in (*SETTINGS, *sorted(KNOWN_ENTRIES)) if name.startswith(incomplete)]


def _names(*groups: str) -> list[str]:
    from importlib.metadata import entry_points

    return list(dict.fromkeys(name for group in groups for name in sorted(entry_points(group=group).names)))
