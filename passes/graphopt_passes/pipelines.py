"""The pipelines that come with graphopt, as texts."""

from __future__ import annotations

_OWN = "fixpoint(eliminate-identity,eliminate-noop,eliminate-transpose,common-subexpression,eliminate-dead)"

EXACT = f"{_OWN},eliminate-dead"
