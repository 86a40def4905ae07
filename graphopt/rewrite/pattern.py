"""Passes that are written as a pattern and what takes its place."""

from __future__ import annotations

import functools
import inspect
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import onnx_ir as ir

from graphopt.errors import PluginError
from graphopt.rewrite import facts
from graphopt.rewrite.changes import Declined
from graphopt.rewrite.passes import RewritePass
from graphopt.rewrite.patterns.language import compile_pattern
from graphopt.rewrite.patterns.matcher import PatternMatch, find, inner_problem
from graphopt.rewrite.patterns.operands import Unfit
from graphopt.rewrite.patterns.plan import NewConstant, NewValue, Plan
from graphopt.rewrite.patterns.replacing import ReplacementOps
from graphopt.rewrite.patterns.terms import Pattern
from graphopt.rewrite.rewriter import Rewriter

_COMPILED: WeakKeyDictionary[type, dict[str, Pattern]] = WeakKeyDictionary()


class _Roots:
    """The operators at the end of a pattern; of a class, those with its default options."""

    def __get__(self, instance: PatternPass | None, owner: type[PatternPass]) -> tuple[str, ...]:
        if instance is None and inspect.isabstract(owner):
            return ()
        return (owner() if instance is None else instance).compiled.roots


@dataclass(frozen=True)
class PatternPass(RewritePass[Plan]):
    """A pass that is a pattern and what takes its place.

    ```python
    class FuseHardSwish(PatternPass):
        name, numerics, min_opset = "fuse-hardswish", Numerics.REASSOCIATES, 14

        def pattern(self, op, x):
            return op.Div(op.Mul(x, op.Clip(op.Add(x, 3), 0, 6)), 6)

        def replacement(self, op, x):
            return op.HardSwish(x)
    ```

    The engine matches commutative operands in any order; takes a number for any constant of one element
    that has this value in its own type and does not widen the result; and declines, with the reason, where
    an inner value has other users, or where the model's opset or types do not allow the replacement.
    Options are dataclass fields as in any pass, and both methods may read them.

    Attributes:
        max_opset: The highest version of the default opset that the pass can work on; None for no limit.
    """

    max_opset: ClassVar[int | None] = None
    roots = _Roots()  # pyright: ignore[reportAssignmentType]

    @abstractmethod
    def pattern(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Describe what is looked for.

        Called once for each set of options.

        Args:
            op: Makes the terms; see `graphopt.rewrite.patterns.language.PatternOps`. Besides operators it
                has ``constant``, ``value``, ``optional``, ``either`` and ``attribute``.
            *args: Declare a parameter for each variable; the same variable is the same value everywhere.
            **kwargs: Not used.

        Returns:
            The last value, or a tuple of values that all have a replacement: one of them must be computed
            from all the others.
        """

    @abstractmethod
    def replacement(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Describe what takes its place.

        Args:
            op: Makes the nodes; see `graphopt.rewrite.patterns.replacing.ReplacementOps`. ``op.array(w)``
                is the content of a constant.
            *args: Declare a parameter for each name that the pattern binds and that is needed: values
                (`onnx_ir.Value`), the Python values of attributes, and None for what is left out.
            **kwargs: All other names.

        Returns:
            A value for each that the pattern gives back: the result of a call, a value that the pattern
            bound, or that same output where it stays; or `Declined`.
        """

    def condition(self, match: PatternMatch) -> bool | Declined:
        """Look at a match before it is replaced.

        Returns:
            Whether it may be replaced, or `Declined` to say why not.
        """
        return True

    def match(self, node: ir.Node) -> Plan | Declined | None:
        """Look for the pattern with ``node`` as its last node; see `RewritePass.match`."""
        return find(self.compiled, node, self._accept)[0]

    def rewrite(self, match: Plan, rw: Rewriter) -> None:
        """Replace a match; see `RewritePass.rewrite`."""
        match.carry_out(rw)

    @functools.cached_property
    def compiled(self) -> Pattern:
        """The pattern, as the engine has it.

        Raises:
            PluginError: It is not proper.
        """
        cls = type(self)
        known = _COMPILED.setdefault(cls, {})
        options = repr(self.options())
        if options not in known:
            title = f"class {cls.__module__}.{cls.__qualname__}"
            pattern = compile_pattern(self.pattern, title)
            asked, _ = _parameters(self.replacement)
            for name in asked:
                if name not in pattern.names:
                    raise PluginError(f"The replacement of {title} asks for '{name}', which is not bound.")
            known[options] = pattern
        return known[options]

    def __getstate__(self) -> dict[str, Any]:
        # The pattern may hold conditions, which cannot be pickled.
        return self.options()

    def _accept(self, match: PatternMatch) -> Plan | Declined:
        if self.max_opset is not None and facts.opset(match.root) > self.max_opset:
            return Declined(f"the opset is above {self.max_opset}")
        declined = inner_problem(match)
        if declined is not None:
            return declined
        answer = self.condition(match)
        if isinstance(answer, Declined):
            return answer
        return self._plan(match) if answer else Declined("the condition of the pass does not hold")

    def _plan(self, match: PatternMatch) -> Plan | Declined:
        try:
            found = self.replacement(ReplacementOps(match), **_chosen(self.replacement, match.bound))
        except Unfit as unfit:
            return Declined(unfit.reason)
        if isinstance(found, Declined):
            return found
        results: tuple[Any, ...] = found if isinstance(found, tuple) else (found,)
        if len(results) != len(match.outputs):
            raise ValueError(f"the replacement gives back {len(results)} values, not {len(match.outputs)}")
        for result in results:
            if not isinstance(result, ir.Value | NewValue | NewConstant):
                raise TypeError(f"the replacement gives back {result!r}, which is no value of a model")
        return Plan.of(match, results)


def _parameters(replacement: Any) -> tuple[list[str], bool]:
    """The names that a replacement asks for, and whether it takes all others as well."""
    parameters = list(inspect.signature(replacement).parameters.values())[1:]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return names, any(p.kind == p.VAR_KEYWORD for p in parameters)


def _chosen(replacement: Any, bound: Mapping[str, Any]) -> dict[str, Any]:
    names, everything = _parameters(replacement)
    return dict(bound) if everything else {name: bound[name] for name in names}
