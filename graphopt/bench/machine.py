"""The machine that measures."""

from __future__ import annotations

import functools
import platform
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from graphopt.record.data import Machine

_CPU_INFO = Path("/proc/cpuinfo")
# What x86, and of Arm the kernels of boards, call it.
_CPU_KEYS = ("model name", "Hardware", "Model")
_SECONDS = 10.0


@functools.cache
def _cpu() -> str:
    """The model of the processor, as far as the system tells it."""
    found = ""
    if sys.platform.startswith("linux"):
        with suppress(OSError):
            found = _cpu_of_linux(_CPU_INFO.read_text(encoding="utf-8", errors="replace"))
    elif sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            found = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=True
            ).stdout.strip()
    return found or platform.processor() or platform.machine()


def _cpu_of_linux(text: str) -> str:
    lines = [line.partition(":") for line in text.splitlines()]
    values = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    return next((values[key] for key in _CPU_KEYS if values.get(key)), "")


def machine_here(worker: str = "", label: str = "") -> Machine:
    """This machine.

    Args:
        worker: The name of the worker of a cluster that measures.
        label: The resource that it was chosen for.
    """
    logical = psutil.cpu_count() or 1
    return Machine(
        host=socket.gethostname(),
        worker=worker,
        label=label,
        cpu=_cpu(),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        memory_bytes=psutil.virtual_memory().total,
        system=platform.platform(),
    )
