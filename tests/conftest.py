"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No test asserts a time, and a busy machine is no fault. In CI the examples are the same each time.
settings.register_profile(
    "graphopt",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("graphopt")
