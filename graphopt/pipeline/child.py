"""The process that foreign code runs in: ``python -m graphopt.pipeline.child ADDRESS OUTPUT``.

Started by `graphopt.pipeline.worker`, never by hand. It answers one call after another over a
connection; what the code prints goes to the file OUTPUT, at the level of file descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from multiprocessing.connection import Client, Connection
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve calls until the parent closes the connection."""
    address, output = sys.argv[1], sys.argv[2]
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    _leave_terminal(output)
    key = bytes.fromhex(os.environ.pop("GRAPHOPT_WORKER_KEY"))
    connection = Client(address, authkey=key)
    assert isinstance(connection, Connection)
    mine, before = os.getpid(), _state()
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            # Threads that a tool left behind must not keep the process.
            os._exit(0)
        answer = _answer(message, connection)
        if os.getpid() != mine:
            # What a tool forked and let come back to here must not answer a second time.
            os._exit(0)
        connection.send_bytes(pickle.dumps(_left_behind(before), protocol=5))
        connection.send_bytes(answer)


_State = tuple[str, list[Any], dict[str, str]]


def _state() -> _State:
    return (
        _folder(),
        [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        dict(os.environ),
    )


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


@contextlib.contextmanager
def unforked() -> Generator[None]:
    """End the copy of this process that foreign code made by a fork and lets come back from a block."""
    mine = os.getpid()
    yield
    if os.getpid() != mine:
        os._exit(0)


def _left_behind(before: _State) -> tuple[str, ...]:
    """What calls left that could harm a later one, in words."""
    folder, handlers, variables = _state()
    threads = threading.active_count() - 1
    found = {
        f"{threads} thread{'s' * (threads != 1)}": threads > 0,
        "another working directory": folder != before[0],
        "other signal handlers": handlers != before[1],
        "other environment variables": variables != before[2],
        "child processes": _has_children(),
    }
    return tuple(what for what, is_so in found.items() if is_so)


def _has_children() -> bool:
    if os.name != "posix":
        return False
    try:
        # Children that have ended and that nobody waited for count, too; they are not reaped here.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _leave_terminal(output: str) -> None:
    # Ctrl-C belongs to the parent, which ends this process; and a killed parent takes it along.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ.pop("GRAPHOPT_WORKER_PARENT")):
            os._exit(0)  # it was killed before this one asked to go along
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)


def _answer(message: bytes, connection: Connection) -> bytes:
    try:
        paths, setup, call = pickle.loads(message)
        _take_paths(paths)
        for name, path in setup:
            load_file(name, path)
        function, arguments = pickle.loads(call)
        found = _resolve(function)
    except BaseException as error:
        connection.send_bytes(b"ready")
        return pickle.dumps(_failure(error), protocol=5)
    # Only now the time of the call begins: importing is not its work.
    connection.send_bytes(b"ready")
    try:
        value = found(*arguments)
        reply: dict[str, Any] = {"status": "ok", "value": value}
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        return pickle.dumps(reply, protocol=5)
    except BaseException as error:
        return pickle.dumps(_failure(error), protocol=5)


_given = list(sys.path)


def _take_paths(paths: list[str]) -> None:
    """Find modules where the caller does, and where packages that were imported here want to find theirs."""
    # onnxruntime.transformers appends its own folder when it is imported, and needs it from then on.
    added = [path for path in sys.path if path not in _given and path not in paths]
    sys.path[:] = [*paths, *added]
    _given[:] = paths


def _failure(error: BaseException) -> dict[str, Any]:
    reply: dict[str, Any] = {
        "status": "error",
        "error": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exc(),
        "exception": None,
    }
    try:
        pickle.loads(pickle.dumps(error))
        reply["exception"] = error
    except Exception:
        # An exception that cannot travel is told by its text alone.
        reply["exception"] = None
    return reply


def _resolve(function: str) -> Any:
    module, _, name = function.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def load_file(name: str, path: str) -> Any:
    """Import the file at ``path`` as module ``name``, once."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


if __name__ == "__main__":
    main()
