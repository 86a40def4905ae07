"""The last step of a run: the result in the format that is asked for, with all that it is loaded with."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from graphopt.deployment.portability import ties_of_packed
from graphopt.jobs import Job
from graphopt.numerics.ortformat import LEVEL, SUFFIX, pack
from graphopt.numerics.runtime import Runtime, SessionSpec
from graphopt.results import Result


def ready(job: Job, result: Result) -> Result:
    """Complete a result by what it is loaded with, and what ties it to where it runs.

    Raises:
        BadInput: ONNX Runtime does not write the model in the format that is asked for.
    """
    entry, options = result.record.result, job.plan.options
    if entry is None or not result.ok:
        return result
    config = tuple(sorted(entry.session_config.items()))
    result.made_with = replace(options.settings, config=config, disabled=())
    if options.format == "ort":
        result.packed = _packed(job, result)
        entry.format, entry.session_config = "ort", result.settings.needed
        entry.portability, entry.tied_to = ties_of_packed(result.packed, Runtime(timeout=options.timeout))
    entry.session = result.settings.natural()
    if job.checker is not None and job.checker.example is not None:
        result.example = dict(job.checker.example.arrays)
    return result


def _packed(job: Job, result: Result) -> bytes:
    """The file in ORT format: the one that was checked, else one that is made now."""
    if job.checker is not None and job.checker.packed is not None:
        return job.checker.packed.read_bytes()
    with tempfile.TemporaryDirectory(prefix="graphopt-ort-") as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / f"model{SUFFIX}"
        result.model.write(source)
        made = SessionSpec.loading(source, result.made_with, LEVEL)
        pack(Runtime(timeout=job.plan.options.timeout), made, target)
        return target.read_bytes()
