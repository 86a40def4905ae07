"""Model files without their weights: what a pass needs that works from file to file."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx


def read_structure(path: Path) -> onnx.ModelProto:
    """Read a model, leaving weights that lie in other files where they are."""
    return onnx.load(path, load_external_data=False)


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """The main graph, the functions and all subgraphs."""
    stack: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            for attr in node.attribute:
                if attr.HasField("g"):
                    stack.append(attr.g)
                stack.extend(attr.graphs)


def data_files(model: onnx.ModelProto) -> frozenset[str]:
    """The files that weights of ``model`` lie in, as they are written in it."""
    return frozenset(
        entry.value
        for tensor in _tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in graphs(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attr in node.attribute:
                if attr.HasField("t"):
                    yield attr.t
                yield from attr.tensors


def bring_data(files: frozenset[str], source: Path, target: Path, *, linked: bool = False) -> None:
    """Copy the weight files of the model at ``source`` to the folder of ``target``.

    Args:
        files: As the model names them.
        source: The model that has them.
        target: The model that shall have them.
        linked: Whether they may be the same files, which then nobody writes into.
    """
    for name in sorted(files):
        destination = target.parent / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        origin = source.parent / name
        destination.unlink(missing_ok=True)
        # What has one name only may be somebody's own: onnx refuses to read a file that has two.
        if linked and origin.stat().st_nlink > 1:
            with contextlib.suppress(OSError):  # a file takes only so many names
                os.link(origin, destination)
                continue
        shutil.copyfile(origin, destination)


def copy(source: Path, target: Path, *, linked: bool = False) -> None:
    """Copy a model with the files that it refers to; see `bring_data`."""
    shutil.copyfile(source, target)
    bring_data(data_files(read_structure(source)), source, target, linked=linked)


def write_structure(model: onnx.ModelProto, source: Path, target: Path) -> None:
    """Write a model that was read by `read_structure` from ``source``, with the files that it refers to."""
    target.write_bytes(model.SerializeToString())
    bring_data(data_files(model), source, target)
