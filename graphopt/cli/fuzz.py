"""``graphopt fuzz``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options as o


def fuzz(
    step: Annotated[str, typer.Argument(metavar="PASS", help="A pass, or the text of a pipeline.")],
    plugin: o.Plugins = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many models to try.")] = 300,
    seed: Annotated[int, typer.Option("--seed", help="What the models and feeds follow from.")] = 0,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "--models", metavar="FILE", help="A model to mutate and to cut small ones from. Repeatable."
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", metavar="S", min=0, help="Try no further model after this time."),
    ] = None,
    failures: Annotated[
        int, typer.Option("--failures", metavar="N", min=1, help="How many failing models to find.")
    ] = 1,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="DIR", help="Write each failing model, its result and its feeds."),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Attack a pass with generated and mutated models; a failing one is shrunk to the smallest.

    Required of each model: the pass does not raise, the result is valid, inputs and outputs stay as
    they are, the values are as the pass declares, and a second run changes nothing.

    Example: graphopt fuzz my-pass --plugin my_pass.py --models yolov8n.onnx --seconds 60
    """
    from graphopt.cli.fuzzed import Watching, as_data, as_text
    from graphopt.cli.output import show_json
    from graphopt.fuzzing.campaign import FuzzOptions
    from graphopt.fuzzing.campaign import fuzz as attack
    from graphopt.pipeline.opaque import Toolbox
    from graphopt.pipeline.registry import Registry
    from graphopt.pipeline.spec import Pipeline

    registry = Registry.load(tuple(plugin or ()))
    pipeline = Pipeline.parse(step, registry)
    options = FuzzOptions(count, seed, seconds, tuple(models or ()), failures)
    with Watching(options, off=quiet or json) as watching:
        done = attack(
            pipeline, options, tools=Toolbox(cache=None, setup=registry.plugin_files()), tell=watching
        )
    saved = [finding.save(save) for finding in done.findings] if save is not None else []
    if json:
        show_json(as_data(done, saved))
    elif not quiet or done.findings:
        # A model in text is to be copied as it is: nothing may break its lines.
        typer.echo(as_text(str(pipeline), done, saved))
    return 1 if done.findings else 0
