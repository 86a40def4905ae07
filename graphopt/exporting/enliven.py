"""Random weights that behave like trained ones."""

from __future__ import annotations

from typing import Any

_SCORES_ABOVE = 0.005
_CONFIDENCE = 0.25


def enliven(network: Any, seed: int) -> None:
    """Give a randomly initialized network activations and outputs that vary as trained ones do.

    The affine part of each BatchNorm is spread, its statistics are those of seeded, structured images,
    and the class biases of a detection head are moved so that about 0.5 % of the scores exceed 0.25.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            # Mostly positive pre-activations: wider ones make a network whose rounding errors grow
            # a hundredfold on the way, which no trained one does.
            norm.weight.uniform_(0.4, 0.8, generator=generator)
            norm.bias.normal_(1.0, 0.3, generator=generator)
            norm.reset_running_stats()
            norm.momentum = None
        network.train()
        for _ in range(3):
            network(_images(generator))
        network.eval()
        _move_classes(network, generator)


def _images(generator: Any) -> Any:
    """Four 256 x 256 images, [4, 3, 256, 256] in [0, 1]: coarse noise, smoothed, over a gradient."""
    import torch
    from torch.nn.functional import interpolate

    coarse = torch.rand((4, 3, 12, 12), generator=generator)
    smooth = interpolate(coarse, size=(256, 256), mode="bicubic").clamp(0, 1)
    ramp = torch.linspace(0, 1, 256).expand(4, 3, 256, 256)
    return (0.7 * smooth + 0.3 * ramp).clamp(0, 1)


def _move_classes(network: Any, generator: Any) -> None:
    import torch

    head = network.model[-1]
    for name in ("cv3", "one2one_cv3"):
        for branch in getattr(head, name, None) or ():
            last = branch[-1]
            logits = _outputs_of(last, network, _images(generator))
            if logits:
                above = torch.quantile(torch.cat(logits).flatten()[:1_000_000], 1 - _SCORES_ABOVE)
                last.bias += torch.logit(torch.tensor(_CONFIDENCE)) - above


def _outputs_of(module: Any, network: Any, images: Any) -> list[Any]:
    """What ``module`` gives while ``network`` looks at ``images``."""
    seen: list[Any] = []

    def note(_: Any, __: Any, output: Any) -> None:
        seen.append(output)

    hook = module.register_forward_hook(note)
    network(images)
    hook.remove()
    return seen
