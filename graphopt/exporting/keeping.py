"""Run a module without changing it."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from graphopt.errors import BadInput
from graphopt.exporting.calling import Call, tensors
from graphopt.numerics.pytorch import TorchRun, as_array, told


@contextmanager
def undisturbed(module: Any) -> Generator[None]:
    """Put a module into eval mode, and give back all that it was when it is left.

    Training flags, buffers, attributes and the state of the random numbers are given back. The fused kernels
    that ``torch.nn.TransformerEncoder`` takes in eval mode are off meanwhile: they have no form in ONNX.

    Raises:
        BadInput: Its parameters changed meanwhile.
    """
    import torch

    parts = list(module.modules())
    flags = [part.training for part in parts]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    scripted = isinstance(module, torch.jit.ScriptModule)
    kept = [] if scripted else [(part, dict(vars(part)), dict(part._buffers)) for part in parts]
    versions = [_version(parameter) for parameter in module.parameters()]
    fused = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for part, attributes, held in kept:
                part._buffers.clear()
                part._buffers.update(held)
                for name in [name for name in vars(part) if name not in attributes]:
                    del vars(part)[name]
                vars(part).update(attributes)
            for buffer, content in buffers:
                if not torch.equal(buffer, content):
                    buffer.copy_(content)
            for part, flag in zip(parts, flags, strict=True):
                part.training = flag
    if versions != [_version(parameter) for parameter in module.parameters()]:
        raise BadInput(f"{type(module).__name__} changes its own parameters when it is run.")


def fused_note(module: Any) -> tuple[str, ...]:
    """What to say of a module that computes something else with its fused kernels."""
    import torch

    if not any(isinstance(part, torch.nn.TransformerEncoderLayer) for part in module.modules()):
        return ()
    return (
        "PyTorch's fused kernels of TransformerEncoder, which eval mode may take, give 0 at masked places; "
        "the exported model computes them as the layers say, and was compared with these.",
    )


def _version(tensor: Any) -> int:
    """How often a tensor was changed in place."""
    return 0 if tensor.is_inference() else tensor._version


class ModuleReference:
    """A module of this process as a reference for what was exported from it.

    Args:
        module: The module.
        call: How it is called.
        inputs: The names of the exported model's inputs, one for each tensor of the call, or fewer.
    """

    def __init__(self, module: Any, call: Call, inputs: Sequence[str]) -> None:
        self._module = module
        self._call = call
        self._inputs = list(inputs) if len(inputs) == len(call.names) else list(call.names)
        self._state = self._seen()

    @property
    def label(self) -> str:
        """What to call it in sentences."""
        return f"torch:{type(self._module).__name__}"

    def run(self, feeds: Sequence[Mapping[str, Any]], timeout: float | None) -> list[TorchRun]:
        """Run it on feeds; see `LiveReference`. It cannot be stopped.

        Raises:
            BadInput: Its weights have changed since it was exported.
        """
        if self._state != self._seen():
            name = type(self._module).__name__
            raise BadInput(
                f"{name} has changed since it was exported, so that it says nothing: export it again."
            )
        return [self._run(feed) for feed in feeds]

    def example(self) -> dict[str, Any]:
        """What the module was exported with, as a feed."""
        return {
            name: _as_fed(tensor) for name, tensor in zip(self._inputs, self._call.tensors(), strict=True)
        }

    def _seen(self) -> list[tuple[int, int]]:
        state = [*self._module.parameters(), *self._module.buffers()]
        return [(tensor.data_ptr(), _version(tensor)) for tensor in state if not tensor.is_meta]

    def _run(self, feed: Mapping[str, Any]) -> TorchRun:
        values = [
            _as_tensor(feed[name], tensor) if name in feed else tensor.clone()
            for name, tensor in zip(self._inputs, self._call.tensors(), strict=True)
        ]
        args, kwargs = self._call.again(values)
        with undisturbed(self._module), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter has told them
            try:
                return TorchRun([as_array(tensor) for tensor in tensors(self._module(*args, **kwargs))])
            except Exception as error:  # the code of a foreign module may raise anything; it is reported
                return TorchRun(error=told(error))


def _as_fed(tensor: Any) -> Any:
    """A tensor as the exported model is fed."""
    import torch

    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.detach().float().cpu().numpy().astype(ml_dtypes.bfloat16)
    return tensor.detach().cpu().numpy()


def _as_tensor(value: Any, like: Any) -> Any:
    """An array in the type, and on the device, of the tensor that it stands for."""
    import torch

    array = np.array(value, order="C")
    if array.dtype.kind == "V":
        array = array.astype(np.float32)
    return torch.from_numpy(array).to(device=like.device, dtype=like.dtype)
