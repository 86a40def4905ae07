"""``graphopt inspect``."""

from __future__ import annotations

from graphopt.cli import options as o


def inspect(
    model: o.Model,
    export: o.Exports = None,
    inputs: o.Inputs = None,
    pixels: o.Pixels = None,
    dim: o.Dims = None,
    seed: o.Seed = None,
    samples: o.Samples = None,
    special: o.Special = False,
    provider: o.Provider = None,
    json: o.Json = False,
) -> int:
    """Show what is in a model, and the feeds that would be used to check it and why.

    Example: graphopt inspect yolov8n.onnx
    """
    import dataclasses

    from graphopt.cli.output import exported, show, show_json
    from graphopt.inspection import inspect as look
    from graphopt.record.inspected import render

    options = o.check_options(
        inputs=tuple(inputs or ()) or None,
        pixels=pixels,
        dims=o.sizes(dim) or None,
        seed=seed,
        samples=samples,
        special=special or None,
        provider=provider,
    )
    found = look(exported(model, export, quiet=json).path, options)
    if json:
        show_json(dataclasses.asdict(found))
    else:
        show(render(found))
    return 0
