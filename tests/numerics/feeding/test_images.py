"""Images as feeds: what Ultralytics makes of them, and what is said where the model does not say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

cv2: Any = pytest.importorskip("cv2")
pytest.importorskip("PIL")

from graphopt.errors import BadInput, MissingExtra  # noqa: E402
from graphopt.numerics.feeding.images import ImageSetting, letterboxed, plan_images, read_image  # noqa: E402
from graphopt.numerics.feeding.specs import ValueSpec  # noqa: E402
from graphopt.numerics.feeding.userdata import load_inputs  # noqa: E402
from graphopt.numerics.values import Array  # noqa: E402

YOLO = {"stride": "32", "names": "{0: 'a'}", "task": "detect", "imgsz": "[320, 320]"}
SIZES = [(270, 202), (120, 160), (83, 250), (25, 19), (1, 750), (160, 160), (640, 640)]


def spec(*dims: int | str, elem: str = "float") -> ValueSpec:
    return ValueSpec.parse("images", f"tensor({elem})", dims)


def picture(path: Path, height: int, width: int) -> Path:
    rng = np.random.default_rng(height * width)
    small = rng.integers(0, 256, (max(height // 8, 2), max(width // 8, 2), 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    suffixes = ("jpg", "png", "bmp", "webp")
    return [picture(tmp_path / f"{n}.{suffixes[n % 4]}", *size) for n, size in enumerate(SIZES)]


@pytest.mark.yolo
@pytest.mark.parametrize(
    ("dims", "elem", "more", "options"),
    [
        ((1, 3, 320, 320), "float", {}, {}),
        ((1, 3, 192, 320), "float", {}, {"new_shape": (192, 320)}),
        ((1, 3, 320, 320), "float16", {}, {}),
        (("n", 3, "h", "w"), "float", {}, {"auto": True}),
        ((1, 3, 320, 320), "float", {"head": "RTDETRDecoder"}, {"scale_fill": True}),
    ],
)
def test_the_tensors_are_those_of_ultralytics_bit_for_bit(
    pictures: list[Path],
    dims: tuple[int | str, ...],
    elem: str,
    more: dict[str, str],
    options: dict[str, Any],
) -> None:
    torch = pytest.importorskip("torch")
    augment = pytest.importorskip("ultralytics.data.augment")
    box = augment.LetterBox(**{"new_shape": (320, 320), "stride": 32, **options})
    plan = plan_images([spec(*dims, elem=elem)], ImageSetting({**YOLO, **more}))
    for path, (name, tensor) in zip(pictures, plan.feeds(pictures), strict=True):
        image = torch.from_numpy(box(image=cv2.imread(str(path))))[None].permute(0, 3, 1, 2).flip(1)
        expected = (image.half() if elem == "float16" else image.float()).div_(255).numpy()
        assert name == path.name
        assert tensor.dtype == expected.dtype
        assert np.array_equal(tensor, expected)


def test_a_classifier_gets_the_centre_scaled_as_pillow_does(tmp_path: Path) -> None:
    from PIL import Image

    path = picture(tmp_path / "a.png", 100, 180)
    plan = plan_images([spec(1, 3, 64, 64)], ImageSetting({**YOLO, "task": "classify"}))
    ((_, tensor),) = plan.feeds([path])
    scaled = Image.open(path).resize((115, 64), Image.Resampling.BILINEAR)
    expected = np.asarray(scaled)[:, 26:90].transpose(2, 0, 1).astype(np.float32) / 255
    assert np.array_equal(tensor[0], expected)


def test_padding_is_grey_and_half_of_it_on_each_side() -> None:
    image = np.full((10, 20, 3), 7, np.uint8)
    boxed = letterboxed(image, 41, 40)
    assert boxed.shape == (41, 40, 3)
    assert [int(rows.max()) for rows in (boxed[:10], boxed[10:30], boxed[30:])] == [114, 7, 114]
    assert letterboxed(image, 64, 64, 32).shape == (32, 64, 3)


@pytest.mark.parametrize(
    ("pixels", "low", "high", "words"),
    [
        (None, 0.0, 1.0, "RGB from 0 to 1, which is assumed: the model does not say"),
        ("signed", -1.0, 1.0, "RGB from -1 to 1, with --pixels signed"),
        ("raw", 0.0, 255.0, "RGB from 0 to 255, with --pixels raw"),
        ("imagenet", -2.1179, 2.64, "less ImageNet's mean, by its deviation, as torchvision does"),
    ],
)
def test_what_is_assumed_or_asked_for_is_said(
    tmp_path: Path, pixels: str | None, low: float, high: float, words: str
) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[16:] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    told: list[str] = []
    setting = ImageSetting(pixels=pixels)
    (feed,) = load_inputs([tmp_path / "a.png"], [spec(1, 3, 32, 32)], setting, told.append)
    tensor = feed.arrays["images"]
    assert tensor.min() == pytest.approx(low, abs=1e-3)
    assert tensor.max() == pytest.approx(high, abs=1e-3)
    assert words in told[0]


def test_whole_numbers_last_channels_and_grey(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 32, 32)
    ((_, whole),) = plan_images([spec(1, 32, 32, 3, elem="uint8")], ImageSetting()).feeds([path])
    assert whole.dtype == np.uint8
    assert np.array_equal(whole[0], read_image(path)[..., ::-1])
    ((_, grey),) = plan_images([spec(1, 1, 32, 32)], ImageSetting()).feeds([path])
    assert np.array_equal(grey[0, 0], cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255)


def test_a_fixed_batch_takes_groups_and_the_last_is_filled(pictures: list[Path]) -> None:
    plan = plan_images([spec(3, 3, 320, 320)], ImageSetting(YOLO))
    feeds = list(plan.feeds(pictures))
    assert [name for name, _ in feeds] == ["0.jpg and 2 more", "3.webp and 2 more", "6.bmp"]
    last: Array = feeds[-1][1]
    assert np.array_equal(last[0], last[2])
    frozen = plan_images([spec("n", 3, 320, 320)], ImageSetting(YOLO, {"n": 2}))
    assert next(frozen.feeds(pictures))[1].shape == (2, 3, 320, 320)


def test_folders_patterns_and_other_data_together(tmp_path: Path, pictures: list[Path]) -> None:
    (tmp_path / "more").mkdir()
    np.savez(tmp_path / "more" / "z.npz", images=np.zeros((1, 3, 320, 320), np.float32))
    taken = [tmp_path, tmp_path / "more", f"{tmp_path}/*.webp"]
    feeds = load_inputs(taken, [spec(1, 3, 320, 320)], ImageSetting(YOLO))
    assert [feed.name for feed in feeds] == [*(p.name for p in pictures), "z.npz", "3.webp"]
    assert {feed.distribution for feed in feeds} == {"data"}


def test_as_many_images_as_fit_into_memory_evenly_spread() -> None:
    plan = plan_images([spec(1, 3, 1024, 1024)], ImageSetting(YOLO))
    files = [Path(f"{index}.jpg") for index in range(420)]
    chosen = plan.chosen(files)
    assert len(chosen) == 42
    assert chosen[:2] == [Path("0.jpg"), Path("10.jpg")]
    assert plan.chosen(files[:30]) == files[:30]


@pytest.mark.parametrize(
    ("specs", "setting", "words"),
    [
        ([spec(1, 3, 8, 8), spec(1, 2)], ImageSetting(), "Images are one input, and the model takes"),
        ([spec(1, 3, 8, 3)], ImageSetting(), "is not clear"),
        ([spec(1, 16, 8, 8)], ImageSetting(), "is not clear"),
        ([spec(1, 3)], ImageSetting(), "is not clear"),
        ([spec(1, 3, 8, 8, elem="int64")], ImageSetting(), "Images cannot be fed to the input"),
        ([spec("n", 3, "h", "w")], ImageSetting(), "say of which with --dim h=N"),
        ([spec(1, 3, 8, 8)], ImageSetting(pixels="rgb"), "give one of unit, signed, imagenet, raw"),
        ([spec(1, 3, 8, 8, elem="uint8")], ImageSetting(pixels="unit"), "The input takes uint8"),
    ],
)
def test_what_cannot_be_fed_is_one_sentence(
    specs: list[ValueSpec], setting: ImageSetting, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        plan_images(specs, setting)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"nonsense")
    (tmp_path / "b.jpg").write_bytes(b"")
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(BadInput, match=f"{name}' as an image"):
            load_inputs([tmp_path / name], [spec(1, 3, 8, 8)])


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name == "cv2" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(MissingExtra, match=r"need opencv-python: pip install 'graphopt\[images\]'"):
        plan_images([spec(1, 3, 8, 8)], ImageSetting())
