"""The named pipelines of the plugin."""

from __future__ import annotations

EXAMPLE = "example-inline-functions,fixpoint(example-expand-pow{most=3}),example-drop-repeated"
