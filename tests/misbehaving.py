"""Passes that misbehave in every way that a process can: given to runs as a plugin file by the tests.

A pass of each kind takes ``how``, the name of a deed of `DEEDS`, and does it, then its proper work, which
is to take out Identity nodes.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir

from graphopt import Numerics, OpaquePass, RewritePass, Rewriter, SurgeonPass


def _loop_in_c() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


def _eat() -> None:
    kept: list[Any] = []
    while True:
        kept.append(np.ones(1 << 23))


def _print() -> None:
    print("printed by a pass", flush=True)
    os.write(1, b"written by a pass\n")


def _leave_threads() -> None:
    threading.Thread(target=time.sleep, args=(600,), daemon=False).start()
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def _change_folder() -> None:
    os.chdir("/")


def _change_handlers() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _fork_and_return() -> None:
    # The child goes on as if it were its parent.
    os.fork()


def _fork_and_stay() -> None:
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)


def _close_all() -> None:
    os.closerange(3, 1024)


def _raise() -> None:
    raise ZeroDivisionError("on purpose")


DEEDS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "sleep": lambda: time.sleep(600),
    "loop": _loop_in_c,
    "eat": _eat,
    "exit": lambda: os._exit(0),
    "sys-exit": lambda: sys.exit(0),
    "kill-itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "raise": _raise,
    "recurse": lambda: DEEDS["recurse"](),
    "print": _print,
    "threads": _leave_threads,
    "folder": _change_folder,
    "handlers": _change_handlers,
    "fork": _fork_and_return,
    "fork-and-stay": _fork_and_stay,
    "close": _close_all,
    "close-output": lambda: os.closerange(0, 3),
}


@dataclass(frozen=True)
class BadRewrite(RewritePass[ir.Node]):
    """Misbehaves while it rewrites."""

    how: str = "nothing"

    name = "bad-rewrite"
    roots = ("Identity",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> ir.Node | None:
        if self.how == "none":
            node.replace_input_with(0, None)
            return None
        return node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        DEEDS.get(self.how, DEEDS["nothing"])()
        source = match.inputs[0]
        assert source is not None
        if self.how == "invalid":
            source = rw.op("NoSuchOperator", [source], role="bad", like=source)
        rw.replace(match.outputs[0], source)


@dataclass(frozen=True)
class BadSurgeon(SurgeonPass):
    """Misbehaves while it operates."""

    how: str = "nothing"

    name = "bad-surgeon"
    numerics = Numerics.EXACT

    def surgery(self, graph: gs.Graph) -> gs.Graph | None:
        DEEDS.get(self.how, DEEDS["nothing"])()
        if self.how == "type":
            return 5  # pyright: ignore[reportReturnType]
        if self.how == "invalid":
            graph.nodes[0].op = "NoSuchOperator"
        for node in [node for node in graph.nodes if node.op == "Identity"]:
            before, after = node.inputs[0], node.outputs[0]
            for user in list(after.outputs):
                user.inputs[list(user.inputs).index(after)] = before
        graph.cleanup()
        return None


@dataclass(frozen=True)
class BadTool(OpaquePass):
    """Misbehaves while it transforms."""

    how: str = "nothing"

    name = "bad-tool"
    numerics = Numerics.EXACT

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        DEEDS.get(self.how, DEEDS["nothing"])()
        if self.how == "none":
            return None  # pyright: ignore[reportReturnType]
        if self.how == "type":
            return b"model"  # pyright: ignore[reportReturnType]
        if self.how == "invalid":
            model.graph.node[0].op_type = "NoSuchOperator"
        if self.how == "empty":
            return onnx.ModelProto()
        return model
