"""How a module is called: the tensors among its arguments, by name and in order."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from graphopt.errors import BadInput


@dataclass(frozen=True)
class Call:
    """A call of a module, which can be made again with other tensors.

    Attributes:
        args: The positional arguments; all that can be given so are.
        kwargs: The others.
        parameters: The arguments by the names of the parameters, in their order.
        names: A name for each tensor among the arguments: its parameter, and where in it.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    parameters: Mapping[str, Any]
    names: tuple[str, ...]

    @classmethod
    def of(cls, module: Any, args: Any, kwargs: Mapping[str, Any] | None) -> Call:
        """Bind arguments to the parameters of a module's ``forward``.

        Each tensor is copied: one that is given twice would be taken for one input.

        Raises:
            BadInput: They do not fit, or there is no tensor among them.
        """
        import torch
        from torch.utils import _pytree as tree

        given = args if isinstance(args, tuple) else (args,)
        try:
            bound = inspect.signature(module.forward).bind(*given, **dict(kwargs or {}))
        except TypeError as error:
            raise BadInput(
                f"{type(module).__name__} cannot be called with these arguments: {error}."
            ) from error
        copied = {name: tree.tree_map(_copied, value) for name, value in bound.arguments.items()}
        bound.arguments.update(copied)
        leaves, _ = tree.tree_flatten_with_path(copied)
        names = [_name(path, bound.signature) for path, leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not names:
            raise BadInput(f"Exporting {type(module).__name__} needs a tensor among its arguments.")
        return cls(bound.args, bound.kwargs, copied, _unlike(names))

    def tensors(self) -> list[Any]:
        """The tensors among the arguments, in order."""
        return tensors(dict(self.parameters))

    def again(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other tensors in the places of these."""
        import torch
        from torch.utils import _pytree as tree

        leaves, spec = tree.tree_flatten((self.args, dict(self.kwargs)))
        fresh = iter(values)
        leaves = [next(fresh) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return tree.tree_unflatten(leaves, spec)

    def shapes(self, given: Mapping[str, Any] | Sequence[Any] | None) -> dict[str, Any] | None:
        """What a caller says of dynamic shapes, by parameter, as ``torch.export`` takes it.

        Raises:
            BadInput: It is of a parameter that there is not.
        """
        if not given:
            return None
        known = list(self.parameters)
        if not isinstance(given, Mapping):
            if len(given) > len(known):
                raise BadInput(
                    f"There are dynamic_shapes for {len(given)} arguments, and {len(known)} arguments."
                )
            given = dict(zip(known, given, strict=False))
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f", did you mean '{near[0]}'" if near else f": there are {', '.join(known)}"
                raise BadInput(f"dynamic_shapes name '{name}', which is no argument{hint}.")
        return {name: given.get(name) for name in known}

    def axes(self, shapes: Mapping[str, Any] | None) -> dict[str, dict[int, str]]:
        """The dynamic axes of each tensor, as the TorchScript exporter takes them: names by axis."""
        found: list[Any] = []
        for name, value in self.parameters.items():
            found += _specs(value, (shapes or {}).get(name))
        pairs = zip(self.names, found, strict=True)
        named = {name: _axes(name, spec) for name, spec in pairs if spec is not None}
        return {name: axes for name, axes in named.items() if axes}


def tensors(value: Any) -> list[Any]:
    """The tensors of a nested value, in order."""
    import torch
    from torch.utils import _pytree as tree

    return [leaf for leaf in tree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _copied(leaf: Any) -> Any:
    import torch

    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def _name(path: Sequence[Any], signature: inspect.Signature) -> str:
    parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path]
    kind = signature.parameters[parts[0]].kind
    if kind is inspect.Parameter.VAR_KEYWORD and len(parts) > 1:
        del parts[0]
    return re.sub(r"\W", "_", "_".join(parts))


def _unlike(names: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        number, unlike = 1, name
        while unlike in found:
            number += 1
            unlike = f"{name}_{number}"
        found.append(unlike)
    return tuple(found)


def _specs(value: Any, spec: Any) -> list[Any]:
    """The shape of each tensor of a nested value, given those of the whole."""
    import torch

    if isinstance(value, torch.Tensor):
        return [spec]
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return [s for key, item in items for s in _specs(item, spec.get(key) if spec else None)]
    if isinstance(value, list | tuple):
        inner = cast("Sequence[Any]", value)
        given: Sequence[Any] = spec or [None] * len(inner)
        if len(given) != len(inner):
            raise BadInput(f"dynamic_shapes have {len(given)} entries for {len(inner)} tensors.")
        return [s for item, part in zip(inner, given, strict=True) for s in _specs(item, part)]
    return [None] * len(tensors(value))


def _axes(name: str, spec: Any) -> dict[int, str]:
    pairs = cast("Mapping[int, Any]", spec).items() if isinstance(spec, Mapping) else enumerate(spec)
    found: dict[int, str] = {}
    for axis, dim in pairs:
        if dim is None or isinstance(dim, int) or getattr(dim, "name", "") == "STATIC":
            continue
        # Dim.DYNAMIC and Dim.AUTO are hints without a name.
        found[axis] = dim if isinstance(dim, str) else getattr(dim, "__name__", f"{name}_{axis}")
    return found
