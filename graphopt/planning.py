"""From what a caller says to what a run does: the pipeline, what it leaves out, and how it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from graphopt.errors import BadInput
from graphopt.numerics.options import CheckOptions, LiveReference
from graphopt.pipeline.files import CheckSettings, read_pipeline
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.settings import SessionSettings, SessionSource
from graphopt.pipeline.spec import Pipeline, validate_skips
from graphopt.rewrite.gate import Gate, Skip
from graphopt.rewrite.passes import OpaquePass, Pass

PipelineSource: TypeAlias = "str | Pipeline | Sequence[Pass | str]"
CheckMode: TypeAlias = Literal["pass", "rewrite", "off"]
Policy: TypeAlias = Literal["stop", "rollback", "heal"]


@dataclass(frozen=True)
class Plan:
    """A pipeline with everything that decides what it does.

    Attributes:
        pipeline: The passes.
        skips: What is left out.
        options: How models are checked.
        check: When.
        on_failure: What to do when a pass fails or breaks the model.
        setup: Plugin files, as (module name, path).
        notes: Sentences for the record.
        registry: Where the names of passes were looked up.
    """

    pipeline: Pipeline
    skips: tuple[Skip, ...]
    options: CheckOptions
    check: CheckMode
    on_failure: Policy
    setup: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    registry: Registry = field(default_factory=Registry)

    @property
    def session(self) -> dict[str, str]:
        """Session entries that the result is loaded with."""
        return self.options.settings.needed

    def parted(self, plugins: Sequence[str | Path]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """The plugins that are files, and the names of those that are modules.

        Args:
            plugins: The plugins as they were given.
        """
        files = {path: Path(path) for _, path in self.setup}
        modules = tuple(str(plugin) for plugin in plugins if str(Path(plugin).resolve()) not in files)
        return tuple(files.values()), modules

    def gate(self, base: Gate | None = None) -> Gate:
        """The gate that leaves out what the caller and ``base`` leave out."""
        start = base or Gate()
        return replace(start, skips=start.skips | frozenset(self.skips))


def make_plan(
    pipeline: PipelineSource,
    plugins: Sequence[str | Path],
    skip: Sequence[str],
    options: Mapping[str, Any],
    check: CheckMode | None,
    on_failure: Policy | None,
    said: Mapping[str, Any],
    session: SessionSource | None = None,
) -> Plan:
    """Make the plan of a run.

    Args:
        pipeline: The name of a pipeline, a text, a ``.toml`` file, or Python objects.
        plugins: ``.py`` files or modules with more passes.
        skip: What to leave out.
        options: Options of passes, by ``"PASS.OPTION"``.
        check: When to check; None for what the file says, else after every pass.
        on_failure: The policy; None for what the file says, else ``stop``.
        said: Fields of `CheckOptions` by name, None for what was not said.
        session: Settings of the session that loads the result, over those of the file.

    Raises:
        BadInput: Something of it cannot be used.
    """
    registry = Registry.load(tuple(plugins))
    skips = [Skip.parse(text) for text in skip]
    found = read_pipeline(pipeline, registry)
    settings = found.check
    skips.extend(found.skips)
    steps = found.pipeline.with_options(options)
    validate_skips(skips, steps)
    mode = check or settings.check or "pass"
    policy = on_failure or settings.on_failure or "stop"
    if mode == "off" and policy == "heal":
        raise BadInput("Healing needs the check, which tells what is wrong: leave out --check off.")
    if mode == "off" and said["reference"] is not None:
        raise BadInput("A reference needs the check: leave out --reference, or --check off.")
    if mode == "off" and said["runtimes"]:
        raise BadInput("Other runtimes are part of the check: leave out --runtime, or --check off.")
    merged = CheckOptions(
        **{**_of_file(settings), **{k: v for k, v in said.items() if v is not None}},
        session=SessionSettings.of(session or {}, found.session),
        every_rewrite=mode == "rewrite",
    )
    notes = _idle_plugins(registry, steps, pipeline)
    return Plan(steps, tuple(skips), merged, mode, policy, registry.plugin_files(), notes, registry)


def settings_of(
    *,
    inputs: Sequence[str | Path],
    dims: Mapping[str, int] | None,
    special: bool,
    reference: str | Path | LiveReference | None,
    runtimes: Sequence[str] = (),
    **others: Any,
) -> dict[str, Any]:
    """Fields of `CheckOptions` as a caller gave them; None for what a file may say instead."""
    return {
        "inputs": tuple(inputs) or None,
        "dims": dict(dims) if dims else None,
        "special": special or None,
        "reference": str(reference) if isinstance(reference, Path) else reference,
        "runtimes": tuple(runtimes) or None,
        **others,
    }


def runtime_parts_off(pipeline: Pipeline, gate: Gate) -> frozenset[str]:
    """Parts of the runtime's optimizer that a gate keeps from every pass that uses them."""
    return frozenset(
        name
        for item in pipeline.steps()
        if isinstance(item.step, OpaquePass) and item.step.acts_at_load
        for name in gate.disabled(item.instance, frozenset)
    )


def _idle_plugins(registry: Registry, steps: Pipeline, pipeline: PipelineSource) -> tuple[str, ...]:
    """One sentence for each plugin of which no pass is in the pipeline."""
    used = {step.step.name for step in steps.steps()}
    owners: dict[str, list[str]] = {}
    for entry in registry.passes():
        if entry.plugin:
            owners.setdefault(entry.owner, []).append(entry.name)
    rest = f",{pipeline}" if isinstance(pipeline, str) and registry.is_pipeline(pipeline) else ",default"
    return tuple(
        f"No pass of {owner} is in this pipeline: --pipeline {','.join(names)}{rest} runs what it has."
        for owner, names in owners.items()
        if used.isdisjoint(names)
    )


def _of_file(settings: CheckSettings) -> dict[str, Any]:
    found = {
        "inputs": settings.inputs,
        "dims": settings.dim,
        "seed": settings.seed,
        "samples": settings.samples,
        "special": settings.special,
        "reference": settings.reference,
        "pixels": settings.pixels,
        "runtimes": settings.runtime,
        "atol": settings.atol,
        "rtol": settings.rtol,
        "provider": settings.provider,
        "threads": settings.threads,
        "timeout": settings.timeout,
    }
    return {name: value for name, value in found.items() if value is not None}
