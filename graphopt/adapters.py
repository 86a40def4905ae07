"""Passes made of what was written for other tools.

Each of these gives a class that is a pass like any other: it can stand in a plugin file or behind an
entry point, has options, and its changes are recorded as a structural diff, so that a diagnosis can name
it as a whole.

```python
@graphopt.surgeon_pass("drop-repeated", numerics=Numerics.EXACT)
def drop_repeated(graph: gs.Graph) -> None: ...

@graphopt.proto_pass("strip-docs", numerics=Numerics.EXACT)
def strip_docs(model: onnx.ModelProto, *, keep: bool = False) -> None: ...

FuseGelu = graphopt.onnxscript_pass("fuse-gelu", my_rule, numerics=Numerics.REASSOCIATES)
Deduplicate = graphopt.onnx_ir_pass("deduplicate", DeduplicateInitializersPass, numerics=Numerics.EXACT)
```

Parameters after the first of a function, and those of a class or function that gives an onnx-ir pass,
become the options of the pass: each needs a type and a default. The docstring becomes that of the pass.
"""

from __future__ import annotations

import importlib
import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

import onnx
import onnx_ir as ir

from graphopt.errors import BadInput, PluginError
from graphopt.rewrite.passes import KEEPS, Numerics, OpaquePass, Pass, Signature, SurgeonPass, ToolReport

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Kind = TypeVar("Kind", bound=Pass)

_INSIDE_LIMIT = 1_900_000_000
"""Bytes of weights above which a model goes to disk with external data."""


class Adapted(Pass):
    """What the classes that are made here share: they travel by module and pass name."""

    if TYPE_CHECKING:
        # The options are those of the class that is made.
        def __init__(self, **options: Any) -> None: ...

    def __reduce__(self) -> tuple[Any, ...]:
        cls = type(self)
        if _found(cls.__module__, self.name) is not cls:
            raise pickle.PicklingError(
                f"Pass '{self.name}' cannot go to a worker process: assign it to a variable of module"
                f" {cls.__module__}."
            )
        return _revive, (cls.__module__, self.name, self.options())


def _found(module: str, name: str) -> type[Pass] | None:
    for item in vars(importlib.import_module(module)).values():
        if isinstance(item, type) and issubclass(item, Adapted) and getattr(item, "name", None) == name:
            return item
    return None


def _revive(module: str, name: str, options: Mapping[str, Any]) -> Pass:
    found = _found(module, name)
    if found is None:
        raise PluginError(f"Module {module} has no pass '{name}' any more.")
    return found(**options)


class AdaptedSurgeon(Adapted, SurgeonPass):
    """A pass made of a function over a `gs.Graph`."""

    function: ClassVar[Callable[..., Any]]

    def surgery(self, graph: gs.Graph) -> gs.Graph | None:
        """Call the function; see `SurgeonPass.surgery`."""
        return type(self).function(graph, **self.options())


class AdaptedTool(Adapted, OpaquePass):
    """A pass made of what changes a whole model."""


class _ProtoEdit(AdaptedTool):
    function: ClassVar[Callable[..., Any]]

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        _refuse(self.name, disabled, ())
        changed = type(self).function(model, **self.options())
        return model if changed is None else changed


class _IrEdit(AdaptedTool):
    source: ClassVar[Any]

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        _refuse(self.name, disabled, ())
        step = self.source if isinstance(self.source, ir.passes.PassBase) else self.source(**self.options())
        _save(step(ir.load(source)).model, target)
        return ToolReport()


class _Rules(AdaptedTool):
    rules: ClassVar[Mapping[str, Any]]
    commute: ClassVar[bool]

    def components(self) -> frozenset[str]:
        return frozenset(self.rules) if len(self.rules) > 1 else frozenset()

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        from onnxscript.rewriter import RewriteRuleSet

        _refuse(self.name, disabled, self.components())
        fired: dict[str, None] = {}
        rules = [
            _watched(each, name, fired)
            for name, rule in self.rules.items()
            if name not in disabled
            for each in (rule.commute() if self.commute else [rule])
        ]
        model = ir.load(source)
        if rules:
            RewriteRuleSet(rules).apply_to_model(model)
        _save(model, target)
        return ToolReport(tuple(fired) if len(self.rules) > 1 else ())


def surgeon_pass(
    name: str, *, numerics: Numerics, signature: Signature = KEEPS
) -> Callable[[Callable[..., gs.Graph | None]], type[AdaptedSurgeon]]:
    """Make a pass of a function that edits a `gs.Graph` in place, or gives back another one.

    Args:
        name: The name of the pass.
        numerics: What it may do to the values.
        signature: What it does to inputs and outputs.
    """

    def adapt(function: Callable[..., gs.Graph | None]) -> type[AdaptedSurgeon]:
        own = {"function": staticmethod(function)}
        return _made(AdaptedSurgeon, name, numerics, signature, own, function.__module__, function, 1)

    return adapt


def proto_pass(
    name: str,
    *,
    numerics: Numerics,
    signature: Signature = KEEPS,
    isolated: bool = False,
    packages: Sequence[str] = (),
) -> Callable[[Callable[..., onnx.ModelProto | None]], type[AdaptedTool]]:
    """Make a pass of a function that edits an `onnx.ModelProto` in place, or gives back another one.

    Args:
        name: The name of the pass.
        numerics: What it may do to the values.
        signature: What it does to inputs and outputs.
        isolated: Whether it runs in a worker process, where it may crash or hang without harm, and its
            results are cached.
        packages: The distributions whose versions decide the result, for the cache.
    """

    def adapt(function: Callable[..., onnx.ModelProto | None]) -> type[AdaptedTool]:
        own = {"function": staticmethod(function), "isolated": isolated, "packages": tuple(packages)}
        return _made(_ProtoEdit, name, numerics, signature, own, function.__module__, function, 1)

    return adapt


def onnx_ir_pass(
    name: str,
    source: ir.passes.PassBase | Callable[..., ir.passes.PassBase],
    *,
    numerics: Numerics,
    signature: Signature = KEEPS,
    isolated: bool = False,
    packages: Sequence[str] = ("onnx-ir",),
    module: str | None = None,
) -> type[AdaptedTool]:
    """Make a pass of one of onnx-ir, in place or functional.

    Args:
        name: The name of the pass.
        source: A class of passes or another callable that gives a pass, whose parameters become options;
            or a pass, which then must not keep anything from one model to the next.
        numerics: What it may do to the values.
        signature: What it does to inputs and outputs.
        isolated: Whether it runs in a worker process; see `proto_pass`.
        packages: The distributions whose versions decide the result.
        module: The module whose variable the pass will be, by default that of the caller.
    """
    own = {
        # A function would become a method.
        "source": source if isinstance(source, ir.passes.PassBase) else staticmethod(source),
        "isolated": isolated,
        "packages": tuple(packages),
    }
    home = module or _caller()
    callable_ = None if isinstance(source, ir.passes.PassBase) else source
    return _made(_IrEdit, name, numerics, signature, own, home, callable_, 0, doc_of=source)


def onnxscript_pass(
    name: str,
    rules: Any,
    *,
    numerics: Numerics,
    commute: bool = False,
    signature: Signature = KEEPS,
    isolated: bool = False,
    packages: Sequence[str] = ("onnxscript", "onnx-ir"),
    module: str | None = None,
) -> type[AdaptedTool]:
    """Make a pass of rewrite rules of onnxscript. Each of several is a component of its own.

    Args:
        name: The name of the pass.
        rules: A ``RewriteRule``, a ``RewriteRuleSet``, a class derived from ``RewriteRuleClassBase``, or a
            list of these.
        numerics: What they may do to the values.
        commute: Whether to try commutative operands in both orders.
        signature: What they do to inputs and outputs.
        isolated: Whether it runs in a worker process; see `proto_pass`.
        packages: The distributions whose versions decide the result.
        module: The module whose variable the pass will be, by default that of the caller.
    """
    own = {
        "rules": _by_name(_flat(rules)),
        "commute": commute,
        "isolated": isolated,
        "packages": tuple(packages),
    }
    home = module or _caller()
    return _made(_Rules, name, numerics, signature, own, home, None, 0, doc_of=rules)


def _made(
    base: type[Kind],
    name: str,
    numerics: Numerics,
    signature: Signature,
    own: Mapping[str, Any],
    module: str,
    parameters_of: Callable[..., Any] | None,
    skip: int,
    *,
    doc_of: Any = None,
) -> type[Kind]:
    """A class of passes.

    Args:
        base: What it derives from.
        name: The name of the pass.
        numerics: What it may do to the values.
        signature: What it does to inputs and outputs.
        own: Further attributes of the class.
        module: Where the class is to be found.
        parameters_of: Whose parameters are the options.
        skip: How many of them are none.
        doc_of: Whose docstring it has, if not that of ``parameters_of``.
    """
    title = "".join(word.capitalize() for word in name.split("-"))
    documented = parameters_of if doc_of is None else doc_of
    has_own_text = inspect.isclass(documented) or inspect.isroutine(documented)
    namespace = {
        "__module__": module,
        "__doc__": (inspect.getdoc(documented) if has_own_text else None) or f"The pass {name}.",
        "name": name,
        "numerics": numerics,
        **own,
    }
    if signature is not KEEPS:
        namespace["signature"] = property(lambda self: signature)
    options = [] if parameters_of is None else _options(parameters_of, name, skip)
    return make_dataclass(title, options, bases=(base,), namespace=namespace, frozen=True)


def _options(source: Callable[..., Any], name: str, skip: int) -> list[tuple[str, Any, Any]]:
    """The parameters of a callable as fields of a dataclass."""
    taken = [
        parameter
        for parameter in list(inspect.signature(source).parameters.values())[skip:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    for parameter in taken:
        if parameter.empty in (parameter.default, parameter.annotation):
            raise PluginError(
                f"Parameter '{parameter.name}' of pass '{name}' would be an option: give it a type and a"
                " default, or wrap the callable in one without it."
            )
    # Only these: the type of the graph or model is often imported for type checking alone.
    annotated = type(name, (), {"__annotations__": {one.name: one.annotation for one in taken}})
    function = inspect.unwrap(source.__init__ if inspect.isclass(source) else source)
    try:
        hints = get_type_hints(annotated, getattr(function, "__globals__", {}), include_extras=True)
    except NameError as error:
        raise PluginError(
            f"An option of pass '{name}' has a type that cannot be resolved ({error}): import it outside of"
            " TYPE_CHECKING."
        ) from error
    return [(one.name, hints[one.name], field(default=one.default)) for one in taken]


def _caller() -> str:
    """The module that called the function that calls this one."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = None if frame is None else frame.f_back
    return "__main__" if frame is None else frame.f_globals["__name__"]


def _flat(rules: Any) -> list[Any]:
    if inspect.isclass(rules):
        return [rules.rule()]  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(rules, Iterable):
        return [each for rule in rules for each in _flat(rule)]
    if not hasattr(rules, "try_rewrite"):
        raise TypeError(f"{rules!r} is neither a rewrite rule nor a set or class of them")
    return [rules]


def _by_name(rules: Sequence[Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for position, rule in enumerate(rules, 1):
        name = rule.name or f"rule-{position}"
        named[name if name not in named else f"{name}-{position}"] = rule
    return named


def _watched(rule: Any, name: str, fired: dict[str, None]) -> Any:
    """A copy of a rule that notes when it is applied."""
    attempt = rule.try_rewrite

    def noted(*args: Any, **options: Any) -> Any:
        delta = attempt(*args, **options)
        if delta is not None:
            fired[name] = None
        return delta

    watched = copy(rule)
    watched.try_rewrite = noted
    return watched


def _refuse(name: str, disabled: frozenset[str], known: Iterable[str]) -> None:
    unknown = disabled.difference(known)
    if unknown:
        raise BadInput(f"Pass '{name}' has no component '{min(unknown)}'.")


def _save(model: ir.Model, target: Path) -> None:
    graphs = [graph for root in _roots(model) for graph in (root, *root.subgraphs())]
    tensors = [value.const_value for graph in graphs for value in graph.initializers.values()]
    outside = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    if outside or sum(tensor.nbytes for tensor in tensors if tensor is not None) > _INSIDE_LIMIT:
        ir.save(model, target, external_data=f"{target.name}.data")
    else:
        ir.save(model, target)


def _roots(model: ir.Model) -> list[ir.Graph]:
    return [model.graph, *(function.graph for function in model.functions.values())]
