"""The command line: one file a subcommand, no logic of its own."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import traceback
from pathlib import Path

from graphopt.errors import GraphoptError

INTERRUPTED = 130
INTERNAL = 70
USAGE = 2


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    # The process is about to end: what the cyclic collector would free goes with it, and its last
    # walk over a big graph would take longer than some passes.
    gc.disable()
    code = execute(sys.argv[1:] if arguments is None else arguments)
    gc.freeze()
    sys.exit(code)


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
    except Exception as error:
        return _fail(_report_crash(error), INTERNAL)


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
    handle, name = tempfile.mkstemp(prefix="graphopt-crash-", suffix=".txt")
    with os.fdopen(handle, "w") as stream:
        stream.write(" ".join(sys.argv) + "\n\n")
        traceback.print_exception(error, file=stream)
    return (
        f"This is a fault of graphopt ({type(error).__name__}: {error}): please report it with the"
        f" traceback in {Path(name)}"
    )


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"graphopt: {message}\n")
    return code
