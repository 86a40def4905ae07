"""Feeds from image files, prepared as the model's own framework prepares them.

A model that Ultralytics exported says in its metadata how it is fed: an image is letterboxed (scaled to
fit, centred, the rest filled with 114), a classifier's is scaled and cropped, an RT-DETR's stretched.
OpenCV decodes and scales, and Pillow scales for classifiers, because Ultralytics uses just these: another
bilinear filter would give other numbers. Without such metadata the sizes are read from the input, and how
pixels become numbers is assumed, which `ImagePlan.told` says.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from graphopt.errors import BadInput, MissingExtra
from graphopt.numerics.feeding.sizes import evaluate, resolve, shapes_of
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.numerics.metadata import is_detr, is_ultralytics, literal, size_of
from graphopt.numerics.values import Array, dtype_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
Pixels: TypeAlias = Literal["unit", "signed", "imagenet", "raw"]
Fit: TypeAlias = Literal["letterbox", "crop", "stretch"]

_PADDING = 114
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What torchvision's weights are evaluated with: the shorter side 256 for a crop of 224.
_MARGIN = 256 / 224
# All tensors are held at once, by this process and by the one that runs the models.
_MOST_BYTES = 512 << 20
_TOLD = {
    "unit": "RGB from 0 to 1",
    "signed": "RGB from -1 to 1",
    "imagenet": "RGB less ImageNet's mean, by its deviation",
    "raw": "RGB from 0 to 255",
}
_FITS = {
    "letterbox": "letterboxed",
    "crop": "scaled and cropped in the centre",
    "stretch": "stretched",
}


@dataclass(frozen=True, slots=True)
class ImageSetting:
    """What decides how images become tensors, beside the inputs.

    Attributes:
        metadata: The model's ``metadata_props``.
        dims: Sizes of symbolic dims, by name or ``INPUT:AXIS``.
        pixels: How pixels become numbers; None for what the metadata says, else 0 to 1.
    """

    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    pixels: str | None = None


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """How images become values of one input.

    Attributes:
        name: The input.
        dtype: Its type.
        last: Whether the channels are its last axis.
        channels: 3, or 1 for grey.
        height, width: Its size.
        batch: How many images one feed takes.
        stride: If above 0, the picture is padded only to a multiple of it, as Ultralytics does where height
            and width are symbolic.
        fit: How an image is brought to the size.
        margin: For ``crop``, how much larger the picture is than what is cut from it.
        pixels: How pixels become numbers.
        told: The same in a phrase, and how it is known.
    """

    name: str
    dtype: np.dtype[Any]
    last: bool
    channels: int
    height: int
    width: int
    batch: int
    stride: int
    fit: Fit
    margin: float
    pixels: Pixels
    told: str = ""

    def chosen(self, paths: Sequence[Path]) -> list[Path]:
        """The images whose tensors fit into memory: all, or as many as do, evenly spread."""
        size = self.channels * self.height * self.width * self.dtype.itemsize
        most = max(_MOST_BYTES // size, self.batch)
        if len(paths) <= most:
            return list(paths)
        return [paths[index * len(paths) // most] for index in range(most)]

    def feeds(self, paths: Sequence[Path]) -> Iterator[tuple[str, Array]]:
        """Tensors of groups of images, each with a name; the last one repeats its last image where it lacks.

        Raises:
            BadInput: A file is no image.
        """
        for begin in range(0, len(paths), self.batch):
            group = paths[begin : begin + self.batch]
            images = [read_image(path, self.channels) for path in group]
            images += images[-1:] * (self.batch - len(group))
            # Only pictures of one size can be padded to less than the whole.
            alike = len({image.shape for image in images}) == 1
            tensor = np.stack([self.tensor(image, alike=alike) for image in images])
            more = f" and {len(group) - 1} more" if len(group) > 1 else ""
            yield f"{group[0].name}{more}", tensor

    def tensor(self, image: Array, *, alike: bool = True) -> Array:
        """One image ``[height, width, channels]`` of uint8 in BGR as the input takes it, without batch."""
        fitted = self._fitted(image, alike=alike)
        rgb = fitted[..., ::-1] if self.channels == 3 else fitted
        ordered = rgb if self.last else rgb.transpose(2, 0, 1)
        values = np.ascontiguousarray(ordered)
        if self.pixels == "raw":
            return values.astype(self.dtype)
        values = values.astype(np.float32) / np.float32(255)
        if self.pixels == "signed":
            values = values * np.float32(2) - np.float32(1)
        elif self.pixels == "imagenet":
            shape = (-1,) if self.last else (-1, 1, 1)
            mean, std = (np.array(numbers, np.float32).reshape(shape) for numbers in (_MEAN, _STD))
            values = (values - mean) / std
        return values.astype(self.dtype)

    def _fitted(self, image: Array, *, alike: bool) -> Array:
        if self.fit == "crop":
            return _cropped(image, self.height, self.width, self.margin)
        if self.fit == "stretch":
            return _resized(image, self.height, self.width)
        return letterboxed(image, self.height, self.width, self.stride if alike else 0)


def read_image(path: Path, channels: int = 3) -> Array:
    """Decode an image, turned as its EXIF data says: ``[height, width, channels]`` of uint8, in BGR.

    Raises:
        BadInput: It cannot be decoded.
    """
    import cv2

    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise BadInput(f"Cannot read the image '{path}': {error.strerror}.") from error
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    image = cv2.imdecode(content, flag) if content.size else None
    if image is None:
        raise BadInput(f"Cannot read '{path}' as an image: it is broken, or no {', '.join(SUFFIXES)}.")
    return np.asarray(image).reshape(*image.shape[:2], channels)


def letterboxed(image: Array, height: int, width: int, stride: int = 0) -> Array:
    """Scale an image to fit, keeping its aspect, and fill the rest with grey around it.

    Args:
        image: ``[height, width, channels]`` of uint8.
        height: The height to fit into.
        width: The width to fit into.
        stride: If above 0, fill up only to the next multiple of it.
    """
    import cv2

    ratio = min(height / image.shape[0], width / image.shape[1])
    inner = max(round(image.shape[0] * ratio), 1), max(round(image.shape[1] * ratio), 1)
    rest = height - inner[0], width - inner[1]
    if stride:
        rest = rest[0] % stride, rest[1] % stride
    # Half a pixel goes below and to the right.
    top, bottom = round(rest[0] / 2 - 0.1), round(rest[0] / 2 + 0.1)
    left, right = round(rest[1] / 2 - 0.1), round(rest[1] / 2 + 0.1)
    scaled = _resized(image, *inner)
    grey = (_PADDING,) * 3
    filled = cv2.copyMakeBorder(scaled, top, bottom, left, right, cv2.BORDER_CONSTANT, value=grey)
    return np.asarray(filled).reshape(*filled.shape[:2], image.shape[2])


def _resized(image: Array, height: int, width: int) -> Array:
    import cv2

    if image.shape[:2] == (height, width):
        return image
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(scaled).reshape(height, width, image.shape[2])


def _cropped(image: Array, height: int, width: int, margin: float) -> Array:
    """Scale the shorter side to the size, as torchvision does with Pillow's filter, and cut out the centre.

    Where the size is not square, the image is stretched to it.
    """
    from PIL import Image

    rows, columns = image.shape[:2]
    if height == width:
        short = round(height * margin)
        scale = (short, short * columns // rows) if rows <= columns else (short * rows // columns, short)
    else:
        scale = round(height * margin), round(width * margin)
    picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
    scaled = np.asarray(picture.resize((scale[1], scale[0]), Image.Resampling.BILINEAR))
    top, left = round((scale[0] - height) / 2), round((scale[1] - width) / 2)
    return scaled[top : top + height, left : left + width].reshape(height, width, image.shape[2])


def plan_images(specs: Sequence[ValueSpec], setting: ImageSetting) -> ImagePlan:
    """Decide how images become tensors.

    Raises:
        MissingExtra: OpenCV or Pillow is not installed.
        BadInput: The model takes no images, or not clearly so; a size is not known; ``pixels`` is wrong.
    """
    for module, package in (("cv2", "opencv-python"), ("PIL", "pillow")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(f"Images as inputs need {package}: pip install 'graphopt[images]'.")
    spec, last, channels = _image_input(specs)
    assert spec.dims is not None
    dtype = dtype_of(spec.elem)
    if dtype is None or not (dtype.kind == "f" or spec.elem in ("uint8", "bfloat16")):
        raise BadInput(f"Images cannot be fed to the input {spec}: save its tensors as an .npz.")
    metadata = setting.metadata
    known = is_ultralytics(metadata)
    pixels = _pixels(setting.pixels, whole=spec.elem == "uint8")
    axes = (1, 2) if last else (2, 3)
    shape = shapes_of({spec.name: spec.dims})[spec.name]
    given, _ = resolve(setting.dims, {spec.name: shape})
    sizes = [_size(shape.dims[axis], given) for axis in (0, *axes)]
    recorded = size_of(metadata) if known else None
    stride = 0
    if recorded is not None and sizes[1] is None and sizes[2] is None and metadata.get("task") != "classify":
        stride = max(literal(metadata.get("stride", "32")), 1)
    for place, axis in enumerate(axes):
        if sizes[1 + place] is None and recorded is not None:
            sizes[1 + place] = recorded[place]
        if sizes[1 + place] is None:
            name = shape.dims[axis]
            raise BadInput(
                f"Images can be of any size for the input {spec}: say of which with --dim {name}=N."
            )
    batch, height, width = sizes
    fit, margin, why = _fit(metadata, setting.pixels) if known else _assumed(setting.pixels)
    if fit != "letterbox":
        stride = 0
    told = f"images {_FITS[fit]} to {width}x{height}, {_TOLD[pixels]}, {why}"
    if channels == 1:
        told = told.replace("RGB", "grey")
    assert height is not None
    assert width is not None
    return ImagePlan(
        spec.name, dtype, last, channels, height, width, batch or 1, stride, fit, margin, pixels, told
    )


def _fit(metadata: Mapping[str, str], asked: str | None) -> tuple[Fit, float, str]:
    fit: Fit = "letterbox"
    if metadata.get("task") == "classify":
        fit = "crop"
    elif is_detr(metadata):
        fit = "stretch"
    return fit, 1.0, "as Ultralytics does" if asked is None else f"with --pixels {asked}"


def _assumed(asked: str | None) -> tuple[Fit, float, str]:
    if asked is None:
        return "letterbox", 1.0, "which is assumed: the model does not say (--pixels says otherwise)"
    if asked == "imagenet":
        return "crop", _MARGIN, "as torchvision does"
    return "letterbox", 1.0, f"with --pixels {asked}"


def _pixels(asked: str | None, *, whole: bool) -> Pixels:
    if asked is not None and asked not in get_args(Pixels):
        raise BadInput(f"Unknown --pixels '{asked}': give one of {', '.join(get_args(Pixels))}.")
    if not whole:
        return next((name for name in get_args(Pixels) if name == asked), "unit")
    if asked not in (None, "raw"):
        raise BadInput(f"The input takes uint8, which --pixels {asked} does not give: leave it out.")
    return "raw"


def _image_input(specs: Sequence[ValueSpec]) -> tuple[ValueSpec, bool, int]:
    """The input that takes images, whether its channels come last, and how many they are."""
    there = ", ".join(map(str, specs))
    needed = [spec for spec in specs if not spec.optional]
    if len(needed) != 1:
        raise BadInput(f"Images are one input, and the model takes {there}: save the tensors as an .npz.")
    spec = needed[0]
    if spec.kind == "tensor" and spec.dims is not None and len(spec.dims) == 4:
        found = [(axis == 3, dim) for axis in (1, 3) if (dim := spec.dims[axis]) in (1, 3)]
        if len(found) == 1:
            last, channels = found[0]
            assert isinstance(channels, int)
            return spec, last, channels
    raise BadInput(
        f"Which axis of the input {spec} has the 3 colours of an image is not clear: save the tensors as an "
        ".npz."
    )


def _size(dim: int | str, given: Mapping[str, int]) -> int | None:
    if isinstance(dim, int):
        return dim
    try:
        return evaluate(dim, given)
    except (KeyError, SyntaxError, ValueError):
        return None
