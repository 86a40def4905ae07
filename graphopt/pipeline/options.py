"""The options of a pass: the fields of its dataclass, with their types, defaults and documentation."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from graphopt.errors import PipelineError, PluginError
from graphopt.pipeline.grammar import ListOf, Raw, Scalar, plain
from graphopt.pipeline.names import one_of
from graphopt.rewrite.passes import Pass

_SCALARS = (bool, int, float, str)
_NONE = type(None)
_SUPPORTED = "bool, int, float, str, Literal, tuple[...] and dict[str, ...] of these, or any of them or None"
_RESERVED = frozenset(
    {"name", "numerics", "min_opset", "max_opset", "roots", "isolated", "packages", "signature"}
)
_LIMITS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"), ("pattern", "matching"))


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a pass.

    Attributes:
        owner: Who takes it, in words: ``pass 'ort'``.
        name: The name of the field.
        type: Its annotation, resolved.
        default: Its default.
        doc: What ``field(metadata={"doc": ...})`` says of it, else empty.
    """

    owner: str
    name: str
    type: Any
    default: Any
    doc: str = ""

    def read(self, raw: Raw, place: str) -> Any:
        """The value of this option for a value in a text.

        Raises:
            PipelineError: It is not of the option's type.
        """
        if isinstance(raw, Scalar) and not raw.quoted and raw.text.casefold() == "none" and self.optional:
            return None
        value = plain(raw)
        if isinstance(raw, Scalar) and self._takes(tuple):
            value = [value]  # One value is a list of one.
        elif isinstance(raw, ListOf) and not raw.items and self._takes(dict, Mapping):
            value = dict[str, Any]()
        return self._convert(value, place, strict=False)

    def accept(self, value: Any, place: str = "") -> Any:
        """The value of this option for a Python or TOML value; a list becomes a tuple.

        Raises:
            PipelineError: It is not of the option's type.
        """
        if value == "none" and self.optional and not _members(self.type) & {str}:
            return None
        return self._convert(value, place, strict=True)

    @property
    def optional(self) -> bool:
        """Whether the option may be None."""
        return _NONE in _members(self.type)

    @property
    def is_text(self) -> bool:
        """Whether the option takes any text."""
        return str in _members(self.type)

    def _takes(self, *origins: Any) -> bool:
        return any(get_origin(member) in origins for member in _members(self.type))

    def _convert(self, value: Any, place: str, *, strict: bool) -> Any:
        try:
            return msgspec.convert(value, self.type, strict=strict)
        except msgspec.ValidationError as error:
            shown = repr(value) if not isinstance(value, str) else f"'{value}'"
            where = f" at {place}" if place else ""
            raise PipelineError(
                f"Option '{self.name}' of {self.owner}{where} cannot be {shown}:"
                f" expected {type_text(self.type)}."
            ) from error


def options_of(cls: type[Pass]) -> dict[str, Option]:
    """The options of a pass by name.

    Raises:
        PluginError: A field has no default, or a type that a pipeline text cannot express.
    """
    title = _title(cls)
    _refuse_undecorated(cls)
    try:
        hints = get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise PluginError(
            f"An option of {title} has a type that cannot be resolved ({error}): import it outside of"
            " TYPE_CHECKING."
        ) from error
    return {item.name: _option(cls, title, item, hints[item.name]) for item in fields(cls)}


def _option(cls: type[Pass], title: str, item: Field[Any], annotation: Any) -> Option:
    if item.name in _RESERVED:
        raise PluginError(
            f"'{item.name}' of {title} became an option because of its annotation: write it as a plain"
            f" class attribute, {item.name} = ..."
        )
    if item.default is MISSING and item.default_factory is MISSING:
        raise PluginError(f"Option '{item.name}' of {title} has no default: give it one.")
    if not item.init:
        raise PluginError(f"Option '{item.name}' of {title} has init=False, so that nobody can set it.")
    if not _is_supported(annotation):
        raise PluginError(
            f"Option '{item.name}' of {title} has the type {inspect.formatannotation(annotation)}, which a"
            f" pipeline text cannot express: use {_SUPPORTED}."
        )
    default = item.default if item.default is not MISSING else item.default_factory()  # pyright: ignore[reportCallIssue]
    option = Option(
        f"pass '{getattr(cls, 'name', cls.__name__)}'",
        item.name,
        annotation,
        default,
        item.metadata.get("doc", ""),
    )
    try:
        option.accept(default)
    except PipelineError as error:
        raise PluginError(
            f"The default of option '{item.name}' of {title} is {default!r}, which is not"
            f" {type_text(annotation)}."
        ) from error
    return option


def _title(cls: type[Pass]) -> str:
    return f"class {cls.__module__}.{cls.__qualname__}"


def _refuse_undecorated(cls: type[Pass]) -> None:
    for base in cls.__mro__:
        if not issubclass(base, Pass) or "__dataclass_params__" in vars(base):
            continue
        forgotten = [
            name for name, kind in inspect.get_annotations(base).items() if "ClassVar" not in str(kind)
        ]
        if forgotten:
            raise PluginError(
                f"{_title(base)[0].upper()}{_title(base)[1:]} declares {_listed(forgotten)} without being a"
                " dataclass: put @dataclass(frozen=True) above it."
            )


def _listed(names: list[str]) -> str:
    return one_of([f"'{name}'" for name in names], "and")


def _members(annotation: Any) -> set[Any]:
    annotation = _bare(annotation)
    if get_origin(annotation) not in (Union, types.UnionType):
        return {annotation}
    return {_bare(member) for member in get_args(annotation)}


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_supported(annotation: Any) -> bool:
    members = _members(annotation) - {_NONE}
    if len(members) == 1:
        return _is_element(next(iter(members)))
    # With a text and a number, or two kinds of number, nobody could say which of them 1 is.
    return (
        all(_is_scalar(member) for member in members)
        and len(members & set(_SCALARS)) == 1
        and str not in members
    )


def _is_element(annotation: Any) -> bool:
    annotation = _bare(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return bool(arguments) and all(_is_element(item) for item in arguments if item is not Ellipsis)
    if origin in (dict, Mapping):
        return arguments[0] is str and _is_scalar(_bare(arguments[1]))
    return _is_scalar(annotation)


def _is_scalar(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return all(isinstance(item, str | int) for item in get_args(annotation))
    return annotation in _SCALARS


def type_text(annotation: Any) -> str:
    """What an option takes, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0]) + "".join(_limits(item) for item in arguments[1:])
    if origin in (Union, types.UnionType):
        return one_of([type_text(item) for item in arguments])
    if origin is Literal:
        return one_of([str(item) for item in arguments])
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"a list [{type_text(arguments[0])}, ...]"
    if origin is tuple:
        return f"a list [{', '.join(type_text(item) for item in arguments)}]"
    if origin in (dict, Mapping):
        return f"a map [name={type_text(arguments[1])}, ...]"
    if annotation is _NONE:
        return "none"
    return {bool: "true or false", int: "an integer", float: "a number", str: "a text"}[annotation]


def _limits(meta: Any) -> str:
    found = ((word, getattr(meta, key, None)) for key, word in _LIMITS)
    return "".join(f" {word} {limit}" for word, limit in found if limit is not None)
