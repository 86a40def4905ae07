"""Feeds from the user's files: .npz, a folder of .npy, an ONNX test data set, or images."""

from __future__ import annotations

import glob
import itertools
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from graphopt.errors import BadInput
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.feeding.images import SUFFIXES, ImageSetting, plan_images
from graphopt.numerics.feeding.sizes import evaluate, shapes_of
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.numerics.values import Array, dtype_of, flatten


def load_inputs(
    paths: Sequence[str | Path],
    specs: Sequence[ValueSpec],
    images: ImageSetting | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[FeedSet]:
    """Read feeds from files.

    Args:
        paths: Any of: an .npz whose arrays are named as the inputs; a folder of .npz, each one set; a
            folder of .npy, each named as an input (``/`` and ``:`` as ``_``); a folder with input_0.pb,
            input_1.pb, ... in the order of the inputs, or with test_data_set_N folders of them; an image,
            or a folder of them. A pattern such as ``val/*.jpg`` stands for all files that it matches.
        specs: The inputs of the model.
        images: What decides how images become tensors.
        tell: Is told how they did, in a phrase.

    Raises:
        BadInput: A file cannot be read, or its content is not what the inputs take.
        MissingExtra: There are images, and what reads them is not installed.
    """
    sets: list[FeedSet] = []
    for are_images, group in itertools.groupby(_expand(paths), _is_image):
        if not are_images:
            read = (item for path in group for item in _read(path, specs))
        else:
            files = list(group)
            plan = plan_images(specs, images or ImageSetting())
            chosen = plan.chosen(files)
            read = ((name, {plan.name: tensor}) for name, tensor in plan.feeds(chosen))
            few = f"{len(chosen)} of {len(files)} " if len(chosen) < len(files) else ""
            tell(f"{few}{plan.told}")
        sets += [_checked(name, arrays, specs) for name, arrays in read]
    return sets


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_expected(path: Path, specs: Sequence[ValueSpec]) -> list[tuple[str, dict[str, Any]]]:
    """Read saved outputs, one set for each set of feeds.

    Args:
        path: An .npz whose arrays are named as the outputs; a folder of them, in the order of their names;
            a folder with output_0.pb, ..., or with test_data_set_N folders of them.
        specs: The outputs of the model.

    Returns:
        The values by output name, each set with the name of its file.

    Raises:
        BadInput: A file cannot be read.
    """
    if not path.is_dir():
        return [(path.name, _read_npz(path, specs))]
    sets = _test_data(path, "output")
    if sets:
        return [(inner.name, _read_test_data(inner, specs, "output")) for inner in sets]
    packed = sorted(path.glob("*.npz"))
    if not packed:
        raise BadInput(f"The folder '{path}' holds no .npz and no output_0.pb: there is no reference in it.")
    return [(file.name, _read_npz(file, specs)) for file in packed]


def _test_data(path: Path, what: str) -> list[Path]:
    """The folders with test data at a path, or the path itself."""
    sets = sorted(inner for inner in path.glob("test_data_set_*") if inner.is_dir())
    if not sets and any(path.glob(f"{what}_*.pb")):
        sets = [path]
    return sets


def _expand(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.exists():
            found.extend(_images_in(path) or [path])
            continue
        matches = sorted(glob.glob(str(given), recursive=True))
        if not matches:
            raise BadInput(
                f"There is no input data at '{given}': give an .npz, a folder of .npy, a test data set or "
                "images."
            )
        for match in map(Path, matches):
            found.extend(_images_in(match) or [match])
    return found


def _images_in(path: Path) -> list[Path]:
    """The images in a folder that holds nothing else to feed."""
    if not path.is_dir() or _test_data(path, "input") or any(path.glob("*.np[yz]")):
        return []
    return sorted(inner for inner in path.iterdir() if _is_image(inner))


def _read(path: Path, specs: Sequence[ValueSpec]) -> list[tuple[str, dict[str, Any]]]:
    if path.is_dir():
        return _read_folder(path, specs)
    if path.suffix == ".npz":
        return [(path.name, _read_npz(path, specs))]
    if path.suffix == ".npy" and len(specs) == 1:
        return [(path.name, {specs[0].name: _read_npy(path)})]
    raise BadInput(
        f"Cannot read feeds from '{path}': give an .npz, a folder of .npy, an ONNX test data set or images "
        f"({', '.join(SUFFIXES)})."
    )


def _read_folder(path: Path, specs: Sequence[ValueSpec]) -> list[tuple[str, dict[str, Any]]]:
    sets = _test_data(path, "input")
    if sets:
        return [(inner.name, _read_test_data(inner, specs, "input")) for inner in sets]
    packed = sorted(path.glob("*.npz"))
    if packed:
        return [(file.name, _read_npz(file, specs)) for file in packed]
    files = sorted(path.glob("*.npy"))
    if not files:
        raise BadInput(
            f"The folder '{path}' holds no .npy, .npz, input_0.pb or image: there is nothing to feed."
        )
    names = {_file_name(spec.name): spec.name for spec in specs}
    return [(path.name, {names.get(file.stem, file.stem): _read_npy(file) for file in files})]


def _file_name(name: str) -> str:
    return name.replace("/", "_").replace(":", "_")


# What numpy raises for a damaged header, and zip for a damaged folder of files.
_UNREADABLE = (
    ValueError, OSError, EOFError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    MemoryError, OverflowError, TypeError, KeyError, NotImplementedError, RuntimeError, struct.error,
)  # fmt: skip


def _read_npy(path: Path) -> Array:
    try:
        # Mapped first: a header may claim more than there is, and all of it would be allocated.
        return np.array(np.load(path, allow_pickle=False, mmap_mode="r"))
    except _UNREADABLE as error:
        raise BadInput(f"Cannot read '{path}' as .npy: {_first_line(error)}.") from error


def _read_npz(path: Path, specs: Sequence[ValueSpec]) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except _UNREADABLE as error:
        raise BadInput(f"Cannot read '{path}' as .npz: {_first_line(error)}.") from error
    if len(specs) == 1 and list(arrays) == ["arr_0"]:
        return {specs[0].name: arrays["arr_0"]}
    return arrays


def _read_test_data(folder: Path, specs: Sequence[ValueSpec], what: str) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    files = sorted(folder.glob(f"{what}_*.pb"), key=lambda file: int(file.stem.rpartition("_")[2]))
    for file in files:
        position = int(file.stem.rpartition("_")[2])
        if position >= len(specs):
            raise BadInput(
                f"'{file}' is data for {what} {position}, and the model has only {len(specs)} {what}s."
            )
        spec = specs[position]
        try:
            arrays[spec.name] = _read_proto(file.read_bytes(), spec)
        except (DecodeError, ValueError, TypeError) as error:
            raise BadInput(
                f"Cannot read '{file}' as a value for {what} {spec}: {_first_line(error)}."
            ) from error
    return arrays


def _read_proto(content: bytes, spec: ValueSpec) -> Any:
    if spec.optional:
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    if spec.kind == "sequence":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if spec.kind == "map":
        return numpy_helper.to_dict(onnx.MapProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _checked(name: str, arrays: Mapping[str, Any], specs: Sequence[ValueSpec]) -> FeedSet:
    known = {spec.name for spec in specs}
    for given in arrays:
        if given not in known:
            inputs = ", ".join(str(spec) for spec in specs)
            raise BadInput(
                f"The data '{name}' has '{given}', which is no input of the model: it takes {inputs}."
            )
    shapes = shapes_of({spec.name: spec.dims for spec in specs if spec.dims is not None})
    sizes: dict[str, int] = {}
    values: dict[str, Any] = {}
    for spec in specs:
        if spec.name not in arrays:
            if spec.optional:
                values[spec.name] = None
                continue
            raise BadInput(f"The data '{name}' lacks the input {spec}.")
        values[spec.name] = _converted(name, arrays[spec.name], spec)
        if spec.kind == "tensor" and spec.dims is not None:
            _match(name, values[spec.name], spec, shapes[spec.name].dims, sizes)
    return FeedSet(name, 0, "data", sizes, values)


def _converted(name: str, value: Any, spec: ValueSpec) -> Any:
    dtype = dtype_of(spec.elem)
    if dtype is None or spec.kind == "map" or value is None:
        return value
    if spec.kind == "tensor" and isinstance(value, np.ndarray):
        # numpy saves the types of ml_dtypes as raw bytes and text in a fixed width.
        if value.dtype.kind == "V" and value.dtype.itemsize == dtype.itemsize and not value.dtype.names:
            return value.view(dtype)
        if dtype.kind == "O" and value.dtype.kind in "USO":
            return np.array([_text(item) for item in value.reshape(-1)], dtype=object).reshape(value.shape)
    for path, array in flatten(value):
        if array is not None and array.dtype != dtype:
            place = f" at {path}" if path else ""
            raise BadInput(f"The data '{name}' has {array.dtype}{place} for the input {spec}: convert it.")
    return value


def _text(item: Any) -> str:
    return item.decode() if isinstance(item, bytes) else str(item)


def _match(
    name: str, array: Array, spec: ValueSpec, dims: tuple[int | str, ...], sizes: dict[str, int]
) -> None:
    wrong = BadInput(f"The data '{name}' has shape {list(array.shape)} for the input {spec}.")
    if array.ndim != len(dims):
        raise wrong
    for dim, size in zip(dims, array.shape, strict=True):
        if isinstance(dim, int):
            if dim != size:
                raise wrong
            continue
        try:
            expected = evaluate(dim, sizes)
        except (KeyError, SyntaxError, ValueError):
            expected = sizes[dim] = size
        if expected != size:
            raise BadInput(
                f"The data '{name}' has shape {list(array.shape)} for the input {spec}, but the dim "
                f"'{dim}' is {expected} in another input."
            )
