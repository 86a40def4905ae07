"""Leaves the plugin's test out where the plugin is not installed, as in graphopt's own test run."""

from __future__ import annotations

import importlib.util

collect_ignore = [] if importlib.util.find_spec("graphopt_example") else ["test_graphopt_example.py"]
