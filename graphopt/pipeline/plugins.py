"""Plugins as Python code: importing them, finding their passes, and making sure that these are proper."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

from graphopt.errors import PluginError
from graphopt.pipeline import worker as workers
from graphopt.pipeline.child import load_file
from graphopt.pipeline.names import one_of
from graphopt.pipeline.options import options_of
from graphopt.rewrite.passes import Numerics, OpaquePass, Pass, RewritePass, SurgeonPass

FILE_PREFIX = "graphopt_plugin_"
PASS_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_IMPORT_SECONDS = 30.0
_KINDS = (RewritePass, SurgeonPass, OpaquePass)


def cause_of(error: BaseException) -> str:
    """The type and the message of an exception of foreign code."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def import_file(name: str, path: str | Path) -> ModuleType:
    """Import a Python file under a module name, or give the module that has that name already.

    Raises:
        PluginError: The file does not import; the message names it and the cause.
    """
    try:
        with _tamed():
            return load_file(name, str(path))
    except (Exception, SystemExit) as error:
        raise PluginError(f"The plugin {path} does not import ({cause_of(error)}): mend it.") from error


@contextmanager
def _tamed() -> Generator[None]:
    """Keep what code does while it is imported from the output and from the state of this process."""
    folder = os.getcwd()
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()} if main else {}
    try:
        with redirect_stdout(sys.stderr), _output_to_errors():
            yield
    finally:
        os.chdir(folder)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)


@contextmanager
def _output_to_errors() -> Generator[None]:
    """The same for what is written past Python."""
    try:
        output = os.dup(1)
    except OSError:
        yield  # there is no output
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(output, 1)
        os.close(output)


def _rehearse(plugin: str, module: str, setup: tuple[tuple[str, str], ...] = ()) -> None:
    """Import a plugin in a worker first, where it may crash.

    Raises:
        PluginError: It ended the process, or did not come to an end.
    """
    reply = workers.plugin_pool().call(
        "graphopt.pipeline.plugins:import_only", module, timeout=_IMPORT_SECONDS, setup=setup, fresh=True
    )
    if isinstance(reply.exception, KeyboardInterrupt):
        raise PluginError(f"The plugin {plugin} does not import (it raises KeyboardInterrupt): mend it.")
    if reply.status not in ("ok", "error"):
        raise PluginError(f"The plugin {plugin} does not import: its process {reply.error}; mend it.")


def import_only(module: str) -> None:
    """What the worker calls: see `_rehearse`."""
    importlib.import_module(module)


def import_plugin(plugin: str) -> tuple[ModuleType, str]:
    """Import what was given to ``--plugin``.

    Args:
        plugin: The path of a ``.py`` file, or the name of a module.

    Returns:
        The module, and its owner in words.

    Raises:
        PluginError: It is not there or does not import.
    """
    if plugin.endswith(".py") or "/" in plugin or "\\" in plugin:
        path = Path(plugin).resolve()
        if not path.is_file():
            raise PluginError(f"There is no plugin file {plugin}: give a .py file or the name of a module.")
        try:
            name = _module_name(path)
        except OSError as error:
            raise PluginError(f"The plugin {plugin} cannot be read ({error}).") from error
        if name not in sys.modules:
            _rehearse(plugin, name, ((name, str(path)),))
        return import_file(name, path), f"the plugin {plugin}"
    if plugin not in sys.modules:
        _rehearse(plugin, plugin)
    try:
        with _tamed():
            return importlib.import_module(plugin), f"the plugin {plugin}"
    except (Exception, SystemExit) as error:
        hint = f"give its path, {plugin}.py" if Path(f"{plugin}.py").is_file() else "mend or install it"
        raise PluginError(f"The plugin {plugin} does not import ({cause_of(error)}): {hint}.") from error


def _module_name(path: Path) -> str:
    # The content is part of the name, so that an edited plugin is a new module here and in a worker
    # that has loaded the former one.
    digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()
    return f"{FILE_PREFIX}{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest[:8]}"


def classes_of(module: ModuleType, owner: str) -> tuple[type[Pass], ...]:
    """The passes that a plugin defines, imported ones left out.

    Raises:
        PluginError: There is none, or one of them is not proper; the message names the owner.
    """
    title = owner[0].upper() + owner[1:]
    found = tuple(dict.fromkeys(_classes_defined_in(module)))
    if not found:
        raise PluginError(
            f"{title} defines no pass: derive a class from RewritePass, PatternPass, SurgeonPass or"
            " OpaquePass in it."
        )
    try:
        return tuple(check_pass(cls) for cls in found)
    except PluginError as error:
        raise PluginError(f"{title} holds an improper pass: {error}") from error


def _classes_defined_in(module: ModuleType) -> list[type[Pass]]:
    own = (module.__name__, f"{module.__name__}.")
    return [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type)
        and issubclass(cls, Pass)
        and (cls.__module__ == own[0] or cls.__module__.startswith(own[1]))
        and (hasattr(cls, "name") or not inspect.isabstract(cls))
        and not cls.__name__.startswith("_")
    ]


def check_pass(cls: object, name: str | None = None) -> type[Pass]:
    """Make sure that ``cls`` is a pass that the engine can run.

    Args:
        cls: The class.
        name: The name that it is registered under, if it is.

    Raises:
        PluginError: It is not; the message says what its author has to do.
    """
    if not isinstance(cls, type) or not issubclass(cls, _KINDS):
        kinds = one_of([kind.__name__ for kind in _KINDS])
        raise PluginError(f"{cls!r} is not a class derived from {kinds}.")
    title = f"class {cls.__module__}.{cls.__qualname__}"
    if inspect.isabstract(cls):
        raise PluginError(f"{title} does not define {one_of(sorted(cls.__abstractmethods__), 'and')}.")
    options_of(cls)
    own = getattr(cls, "name", None)
    if not isinstance(own, str) or PASS_NAME.fullmatch(own) is None:
        what = "no name" if own is None else f"the name {own!r}"
        raise PluginError(
            f'{title} has {what}: give it one of lower-case words joined by dashes, name = "my-pass", or, if'
            " it is a base of others, a class name with an underscore in front."
        )
    if name not in (None, own):
        raise PluginError(f"{title} calls itself '{own}': give the entry point and the class one name.")
    if not isinstance(getattr(cls, "numerics", None), Numerics):
        raise PluginError(f"{title} does not say what it may do to the values: numerics = Numerics.EXACT.")
    _check_kind(cls, title)
    try:
        cls()
    except Exception as error:
        raise PluginError(f"{title} cannot be made with its default options ({cause_of(error)}).") from error
    return cls


def _check_kind(cls: type[Pass], title: str) -> None:
    if issubclass(cls, RewritePass):
        roots: object = getattr(cls, "roots", None)
        if not isinstance(roots, tuple) or not roots or not all(isinstance(root, str) for root in roots):
            raise PluginError(f'{title} needs a tuple of operators where it may match: roots = ("Conv",).')
    if not issubclass(cls, OpaquePass):
        return
    if cls.wants_feeds:
        if cls.transform_with_feeds is OpaquePass.transform_with_feeds:
            raise PluginError(f"{title} wants feeds and defines no transform_with_feeds.")
    elif cls.transform is OpaquePass.transform and cls.transform_file is OpaquePass.transform_file:
        raise PluginError(f"{title} defines neither transform nor transform_file.")
