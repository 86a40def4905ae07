"""The process that a call is made in: its temporary files lie where they go with it, however it ends."""

from __future__ import annotations

import importlib
import os
import tempfile
from typing import Any


def call(folder: str, function: str, arguments: tuple[Any, ...]) -> Any:
    """Call a function with its temporary files in a folder.

    Args:
        folder: Where temporary files go; it is removed when this process has ended.
        function: ``module:name``.
        arguments: What it is called with.
    """
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)
