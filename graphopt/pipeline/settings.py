"""The settings of ONNX Runtime's sessions: as data, and as command lines, TOML and Python say them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from graphopt.errors import BadInput
from graphopt.pipeline.names import did_you_mean, one_of
from graphopt.pipeline.session_keys import KNOWN_ENTRIES, SETTINGS

Level: TypeAlias = Literal["disable", "basic", "extended", "layout", "all"]
Execution: TypeAlias = Literal["sequential", "parallel"]
Pairs: TypeAlias = tuple[tuple[str, str], ...]

CPU = "CPUExecutionProvider"
DISABLED_ENTRY = "optimization.disable_specified_optimizers"
"""The session entry that switches parts of the optimizer off, their names joined by semicolons."""
_SPINNING = {
    "spinning": "session.intra_op.allow_spinning",
    "inter_spinning": "session.inter_op.allow_spinning",
}
_LONGEST_KEY, _LONGEST_VALUE = 1024, 8192


def with_disabled(config: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Session entries that also switch off these parts of the runtime's optimizer."""
    former = [name for name in config.get(DISABLED_ENTRY, "").split(";") if name]
    joined = ";".join(dict.fromkeys([*former, *sorted(names)]))
    return {**config, DISABLED_ENTRY: joined} if joined else dict(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Everything about a session but its model; the defaults are those of ``InferenceSession(path)``.

    It is a value: equal settings make equal sessions, and it can be a key. `of` reads what people write, and
    sorts pairs; `natural` is the way back.

    Attributes:
        level: How far the runtime rewrites the model when it loads it; None for its default, ``all``.
        providers: Execution providers in order of preference.
        provider_options: Options of providers, as (provider, option, value).
        threads: Threads within an operator; None for one a core.
        inter_threads: Threads between operators, for ``parallel``; None for one a core.
        execution: Whether operators that do not depend on each other run at the same time.
        memory_pattern: Whether memory is planned ahead, for shapes that do not vary.
        arena: Whether the CPU's memory comes from an arena that grows and never shrinks.
        spinning: Whether idle threads within an operator wait busily; None for the default, true.
        inter_spinning: The same of the threads between operators.
        dims: Sizes that symbolic dims are fixed to, as (name, size).
        denotations: The same by what a dim denotes (``DATA_BATCH``), as (denotation, size).
        config: Session entries, as (key, value).
        disabled: Parts of the runtime's optimizer (graph transformers and rules) that are switched off.
    """

    level: Level | None = None
    providers: tuple[str, ...] = (CPU,)
    provider_options: tuple[tuple[str, str, str], ...] = ()
    threads: int | None = None
    inter_threads: int | None = None
    execution: Execution = "sequential"
    memory_pattern: bool = True
    arena: bool = True
    spinning: bool | None = None
    inter_spinning: bool | None = None
    dims: tuple[tuple[str, int], ...] = ()
    denotations: tuple[tuple[str, int], ...] = ()
    config: Pairs = ()
    disabled: tuple[str, ...] = ()

    @property
    def provider(self) -> str:
        """The provider that comes first."""
        return self.providers[0]

    @property
    def needed(self) -> dict[str, str]:
        """The session entries that may decide what comes out: all but how threads wait."""
        return with_disabled(dict(self.config), self.disabled)

    @property
    def entries(self) -> dict[str, str]:
        """All session entries, those too that settings with a name of their own stand for."""
        waiting = {key: getattr(self, name) for name, key in _SPINNING.items()}
        said = {key: str(int(value)) for key, value in waiting.items() if value is not None}
        return {**said, **self.needed}

    def options_of(self, provider: str) -> dict[str, str]:
        """The options of one provider."""
        return {key: value for name, key, value in self.provider_options if name == provider}

    def natural(self) -> dict[str, Any]:
        """What differs from a plain session, by name, as TOML and JSON write it and `of` reads it."""
        plain = SessionSettings()
        changed = {name: value for name in _TYPES if (value := getattr(self, name)) != getattr(plain, name)}
        found: dict[str, Any] = {
            name: dict(value) if name in _MAPS else list(value) if isinstance(value, tuple) else value
            for name, value in changed.items()
            if name != "provider_options"
        }
        if self.provider_options:
            names = dict.fromkeys(name for name, _, _ in self.provider_options)
            found["provider_options"] = {name: self.options_of(name) for name in names}
        return found

    @classmethod
    def of(cls, said: SessionSource, base: SessionSettings | None = None) -> SessionSettings:
        """Read settings by name; session entries by their keys, which have a dot.

        Args:
            said: Values by name (``level``, ``inter-threads``); those of maps also one by one
                (``dims.batch``). ``config.KEY`` takes a session entry that graphopt does not know.
            base: What holds where nothing is said; maps are merged.

        Raises:
            BadInput: A name is unknown, or a value cannot be one.
        """
        if isinstance(said, SessionSettings):
            return said
        found = {name: getattr(base or PLAIN, name) for name in _TYPES}
        for key, value in _flat(said):
            name, value = _placed(key, value)
            if name not in _MAPS and name != "provider_options":
                found[name] = _typed(name, value)
                continue
            former = {pair[:-1]: pair for pair in found[name]}
            former.update({pair[:-1]: pair for pair in _pairs(name, value)})
            found[name] = tuple(sorted(former.values()))
        if not found["providers"]:
            raise BadInput("The setting 'providers' needs at least one provider.")
        return SessionSettings(**found)

    def plain(self) -> SessionSettings:
        """The settings that a model is computed with as it is: where, and with how many threads."""
        return SessionSettings(
            level="disable",
            providers=self.providers,
            provider_options=self.provider_options,
            threads=self.threads,
        )


SessionSource: TypeAlias = "SessionSettings | Mapping[str, Any]"
PLAIN = SessionSettings()
"""How ``InferenceSession(path)`` makes a session."""
_Count = Annotated[int, msgspec.Meta(ge=1)]
_TYPES: dict[str, tuple[Any, str]] = {
    "level": (Level, "disable, basic, extended, layout or all"),
    "providers": (tuple[str, ...], "names of execution providers"),
    "provider_options": (dict[str, dict[str, Any]], "a table of options by provider"),
    "threads": (_Count, "an integer of at least 1"),
    "inter_threads": (_Count, "an integer of at least 1"),
    "execution": (Execution, "sequential or parallel"),
    "memory_pattern": (bool, "true or false"),
    "arena": (bool, "true or false"),
    "spinning": (bool, "true or false"),
    "inter_spinning": (bool, "true or false"),
    "dims": (dict[str, _Count], "sizes of at least 1 by the name of the dim"),
    "denotations": (dict[str, _Count], "sizes of at least 1 by denotation"),
    "config": (dict[str, Any], "a table of session entries"),
    "disabled": (tuple[str, ...], "names of graph transformers and rules"),
}
_MAPS = frozenset({"dims", "denotations", "config"})


def parse_session(texts: Iterable[str]) -> dict[str, str]:
    """Read ``KEY=VALUE`` texts, for `SessionSettings.of`.

    Raises:
        BadInput: One is of another form.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"Cannot read --session {text}: write KEY=VALUE, as in threads=4.")
        found[key.strip()] = value.strip()
    return found


def _flat(said: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Tables of TOML that are no setting are parts of a session entry's key."""
    for key, value in said.items():
        if isinstance(value, Mapping) and _name(key) not in _TYPES:
            yield from _flat({f"{key}.{inner}": item for inner, item in value.items()})
        else:
            yield key, value


def _name(key: str) -> str:
    return key.replace("-", "_")


def _placed(key: str, value: Any) -> tuple[str, Any]:
    """The setting that a key belongs to, and what it says of it."""
    if _name(key) in _TYPES:
        return _name(key), value
    if _name(key) == "provider":
        return "providers", value
    head, _, rest = key.partition(".")
    if rest and _name(head) in _MAPS:
        return _name(head), {rest: value}
    if rest and _name(head) == "provider_options":
        provider, _, option = rest.partition(".")
        return "provider_options", {provider: {option: value}} if option else {rest: {}}
    for name, entry in _SPINNING.items():
        if key == entry:
            return name, value
    if rest:
        _demand_entry(key)
        return "config", {key: value}
    raise BadInput(
        f"There is no session setting '{key}': {did_you_mean(key, (*SETTINGS, *KNOWN_ENTRIES))}"
        f"there are {one_of(SETTINGS, 'and')}, and ONNX Runtime's session entries, as"
        " session.set_denormal_as_zero."
    )


def is_known_entry(key: str) -> bool:
    """Whether ONNX Runtime reads a session entry; those of providers are theirs to know."""
    return key in KNOWN_ENTRIES or key.startswith("ep.")


def _demand_entry(key: str) -> None:
    # ONNX Runtime itself takes any key without a word.
    if is_known_entry(key):
        return
    near = did_you_mean(key, (*KNOWN_ENTRIES, *_SPINNING.values()))
    raise BadInput(
        f"ONNX Runtime has no session entry '{key}' that is known here: {near}config.{key} takes it unseen."
    )


def _pairs(name: str, value: Any) -> Iterable[tuple[Any, ...]]:
    table = _typed(name, value)
    if name == "provider_options":
        return [(p, k, _text(f"{p}.{k}", v)) for p, options in table.items() for k, v in options.items()]
    if name == "config":
        return [(key, _text(key, item)) for key, item in table.items()]
    return list(table.items())


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str | bool | int | float):
        raise BadInput(f"'{key}' cannot be {value!r}: a text or a number is expected.")
    text = str(int(value)) if isinstance(value, bool) else str(value)
    if len(key) > _LONGEST_KEY or len(text) > _LONGEST_VALUE:
        raise BadInput(f"'{key[:40]}' or its value is longer than ONNX Runtime takes.")
    return text


def _typed(name: str, value: Any) -> Any:
    kind, expected = _TYPES[name]
    if isinstance(value, str) and kind == tuple[str, ...]:
        value = [part.strip() for part in value.replace(";", ",").split(",") if part.strip()]
    if value is None and getattr(PLAIN, name) is None:
        return None
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        written = name.replace("_", "-")
        raise BadInput(
            f"The session setting '{written}' cannot be {value!r}: expected {expected}."
        ) from error
