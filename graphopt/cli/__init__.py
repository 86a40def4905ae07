"""The command line: one file a subcommand, no logic of its own."""

from __future__ import annotations

import gc
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path

from graphopt.cli.ending import INTERRUPTED, lasting_folder, leave, orderly
from graphopt.errors import NO_ROOM, GraphoptError

INTERNAL = 70
USAGE = 2


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    # The process is about to end: what the cyclic collector would free goes with it, and its last
    # walk over a big graph would take longer than some passes.
    gc.disable()
    try:
        with orderly():
            code = execute(sys.argv[1:] if arguments is None else arguments)
    except OSError as error:
        code = _fail(f"Cannot use the folder for temporary files: {error.strerror or error}", USAGE)
    gc.freeze()
    leave(code)


def execute(arguments: list[str]) -> int:
    """Run a command and return its exit code; errors go to stderr in one sentence."""
    from typer.exceptions import Abort, Exit, TyperException

    from graphopt.cli.app import command

    try:
        code = command()(args=arguments, prog_name="graphopt", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, Abort):
        return _fail("interrupted", INTERRUPTED)
    except GraphoptError as error:
        return _fail(str(error), error.exit_code)
    except TyperException as error:
        return _fail(_usage(error, arguments), USAGE)
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("There is not enough memory.", USAGE)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return _fail(_no_room(error), USAGE)
        return _fail(_report_crash(error), INTERNAL)


def _no_room(error: OSError) -> str:
    where = error.filename or f"temporary files in {lasting_folder()}"
    return f"Cannot write {where}: {error.strerror}."


def _usage(error: Exception, arguments: list[str]) -> str:
    text = error.format_message() if hasattr(error, "format_message") else str(error)  # pyright: ignore[reportAttributeAccessIssue]
    from graphopt.pipeline.grammar import looks_shell_split

    if "unexpected extra argument" in text.lower() and looks_shell_split(arguments):
        hint = "It looks as if your shell split the pipeline text at a brace: put it in quotes."
        text = f"{text.rstrip('.')}. {hint}"
    elif "unexpected extra argument" in text.lower() and "--inputs" in arguments:
        text = (
            f"{text.rstrip('.')}. If your shell spread a pattern, put it in quotes: --inputs 'FOLDER/*.jpg'."
        )
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _report_crash(error: Exception) -> str:
    what = f"This is a fault of graphopt ({type(error).__name__}: {error}): please report it"
    try:
        handle, name = tempfile.mkstemp(prefix="graphopt-crash-", suffix=".txt", dir=lasting_folder())
        with os.fdopen(handle, "w") as stream:
            stream.write(" ".join(sys.argv) + "\n\n")
            traceback.print_exception(error, file=stream)
    except OSError:
        return what
    return f"{what} with the traceback in {Path(name)}"


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"graphopt: {_presentable(message)}\n")
    return code


def _presentable(message: str) -> str:
    """A message without what a terminal would obey, and without names that fill it."""
    plain = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in message)
    return re.sub(r"\S{300,}", lambda found: f"{found[0][:100]}...", plain)
