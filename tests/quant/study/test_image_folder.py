"""Image files come out as torchvision's evaluation prepares them; damaged ones are named."""

import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bfpsim.quant.study.datasets import AS_STORED, IMAGENET, Normalisation
from bfpsim.quant.study.image_folder import Fit, ImageFolder, read_image_folder
from bfpsim.workloads import WorkloadError

RNG = np.random.default_rng(0)
LOSSLESS = ("png", "bmp", "webp")
AS_IS = Fit(None, None)


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RNG.integers(0, 256, shape, np.uint8)


def write(path, pixels: np.ndarray, **settings) -> None:
    path.parent.mkdir(exist_ok=True)
    lossless = {"lossless": True} if path.suffix.lower() == ".webp" else {}
    Image.fromarray(pixels).save(path, **lossless, **settings)


def shown(dataset: ImageFolder, index: int) -> np.ndarray:
    """The image's pixels 0..255, (H, W, channels), of a dataset that is not normalised."""
    inputs = dataset.batch([index]).inputs
    return np.rint(inputs[0].numpy() * 255).astype(np.uint8).transpose(1, 2, 0)


def refusal(run, *arguments, **settings) -> str:
    with pytest.raises(WorkloadError) as caught:
        run(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_and_files_follow_their_names(tmp_path):
    names = ["b/2.png", "b/10.PNG", "a b/x.webp", "B/z.bmp", "B/a.Bmp"]
    pixels = {name: picture(4, 5) for name in names}
    for name, each in pixels.items():
        write(tmp_path / name, each)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "b" / ".hidden.png").write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README").write_text("no class")
    dataset = read_image_folder(tmp_path, AS_STORED, AS_IS)
    order = ["B/a.Bmp", "B/z.bmp", "a b/x.webp", "b/10.PNG", "b/2.png"]
    assert [str(path.relative_to(tmp_path)) for path in dataset.files] == order
    assert dataset.classes == ("B", "a b", "b")
    assert len(dataset) == 5
    picked = dataset.batch([4, 2, 0])
    assert picked.labels.tolist() == [2, 1, 0]
    assert (picked.inputs.dtype, picked.labels.dtype) == (torch.float32, torch.int64)
    for index, name in enumerate(order):
        assert np.array_equal(shown(dataset, index), pixels[name])


def test_images_are_decoded_when_they_are_asked_for(tmp_path):
    write(tmp_path / "a" / "1.png", picture(2, 2))
    (tmp_path / "a" / "2.png").write_text("no image")
    dataset = read_image_folder(tmp_path, AS_STORED, AS_IS)
    assert dataset.batch([0]).inputs.shape == (1, 3, 2, 2)
    assert refusal(dataset.batch, [0, 1]) == (
        f"{tmp_path / 'a' / '2.png'}: is no image; allowed: BMP, JPEG, PNG, WEBP"
    )


def test_channels_are_normalised_each_by_its_own(tmp_path):
    pixels = picture(3, 2)
    write(tmp_path / "a" / "1.png", pixels)
    inputs = read_image_folder(tmp_path, IMAGENET, AS_IS).batch([0]).inputs
    for row, column, channel in np.ndindex(3, 2, 3):
        mean, std = Fraction(IMAGENET.mean[channel]), Fraction(IMAGENET.std[channel])
        exact = (Fraction(int(pixels[row, column, channel]), 255) - mean) / std
        assert abs(Fraction(inputs[0, channel, row, column].item()) - exact) < Fraction(1, 2**20)


def test_grey_is_luma(tmp_path):
    """0.299 R + 0.587 G + 0.114 B, ITU-R BT.601, to the nearest of 256 levels."""
    pixels = picture(8, 8)
    write(tmp_path / "a" / "1.png", pixels)
    grey = shown(read_image_folder(tmp_path, AS_STORED, AS_IS, channels=1), 0)[..., 0]
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (8, 8)
    assert np.abs(grey - luma).max() <= 0.51


def test_every_mode_of_8_bits_is_read(tmp_path):
    grey, alpha = picture(4, 4, 1), picture(4, 4, 4)
    write(tmp_path / "a" / "1.png", grey)
    write(tmp_path / "a" / "2.png", alpha)
    Image.fromarray(grey).convert("P").save(tmp_path / "a" / "3.png")
    Image.fromarray(grey > 127).save(tmp_path / "a" / "4.png")
    dataset = read_image_folder(tmp_path, AS_STORED, AS_IS)
    wanted = [grey[..., None].repeat(3, 2), alpha[..., :3], grey[..., None].repeat(3, 2)]
    wanted.append(np.uint8(255) * (grey > 127)[..., None].repeat(3, 2))
    for index, each in enumerate(wanted):
        assert np.array_equal(shown(dataset, index), each)
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "a" / "5.png")
    assert refusal(read_image_folder(tmp_path, AS_STORED, AS_IS).batch, [4]) == (
        f"{tmp_path / 'a' / '5.png'}: mode I;16; allowed: 8 bits per channel"
    )


# --- resize and crop ----------------------------------------------------------------------------


def test_a_crop_is_the_middle_and_halves_go_to_the_even_number():
    ramp = np.arange(12 * 15, dtype=np.uint8).reshape(12, 15)
    for crop, top, left in ((4, 4, 6), (5, 4, 5), (12, 0, 2), (11, 0, 2), (9, 2, 3), (1, 6, 7)):
        # (12 - 4) / 2 = 4; (15 - 4) / 2 = 5.5, to 6; (12 - 5) / 2 = 3.5, to 4; and so on.
        cut = np.asarray(Fit(None, crop).apply(Image.fromarray(ramp)))
        assert np.array_equal(cut, ramp[top : top + crop, left : left + crop])


def triangles(length: int, resized: int) -> np.ndarray:
    """Weight of each pixel along an axis (columns) in each resized one (rows).

    A triangle as wide as two pixels, of the source or the result, whichever are larger.
    """
    scale = length / resized
    middles = (np.arange(resized)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - middles)
    weights = np.maximum(0, 1 - distance / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    resize=st.integers(1, 40),
    data=st.data(),
)
def test_resizing_is_the_antialiased_bilinear_filter(height, width, resize, data):
    """Within one level: Pillow filters rows, rounds, then filters columns, and rounds again."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    fitted = np.asarray(Fit(resize, None).apply(Image.fromarray(pixels)))
    short = min(height, width)
    shape = tuple(int(Fraction(resize * side, short)) for side in (height, width))
    assert fitted.shape == shape
    assert min(shape) == resize
    if resize == short:
        assert np.array_equal(fitted, pixels)
    wanted = triangles(height, shape[0]) @ pixels @ triangles(width, shape[1]).T
    assert np.abs(fitted - wanted).max() <= 1.01
    crop = data.draw(st.integers(1, resize))
    cut = np.asarray(Fit(resize, crop).apply(Image.fromarray(pixels)))
    top, left = (round(Fraction(side - crop, 2)) for side in shape)
    assert np.array_equal(cut, fitted[top : top + crop, left : left + crop])


def test_halving_a_ramp_by_hand():
    """Reduced by 2, the filter is a triangle 4 pixels wide: weights 1 3 3 1, of 8.

    At the rim the pixel beyond is left out, and the other weights (3 3 1) are of 7.
    """
    ramp = np.arange(0, 160, 20, dtype=np.uint8)[None].repeat(8, 0)
    halved = np.asarray(Fit(4, None).apply(Image.fromarray(ramp)))
    assert halved.tolist() == [[round(100 / 7), 50, 90, 140 - round(100 / 7)]] * 4


def test_the_usual_preparation_is_256_and_224(tmp_path):
    write(tmp_path / "a" / "1.png", picture(300, 500))
    write(tmp_path / "a" / "2.png", picture(260, 257))
    dataset = read_image_folder(tmp_path, IMAGENET)
    assert dataset.batch([0, 1]).inputs.shape == (2, 3, 224, 224)


# --- what is refused ----------------------------------------------------------------------------


def test_images_of_different_sizes(tmp_path):
    write(tmp_path / "a" / "1.png", picture(4, 6))
    write(tmp_path / "b" / "1.png", picture(4, 5))
    one, two = (tmp_path / name / "1.png" for name in "ab")
    for fit in (AS_IS, Fit(4, None)):
        message = refusal(read_image_folder(tmp_path, AS_STORED, fit).batch, [0, 1])
        assert message == f"{two}: 5x4 pixels; allowed: 6x4, as {one}, or resize and crop"
    both = read_image_folder(tmp_path, AS_STORED, Fit(None, 4)).batch([0, 1])
    assert both.inputs.shape == (2, 3, 4, 4)
    message = refusal(read_image_folder(tmp_path, AS_STORED, Fit(None, 5)).batch, [0])
    assert message == f"{one}: 6x4 pixels for crop=5; allowed: at least 5x5, or resize"


def pixels_or_error(dataset: ImageFolder) -> np.ndarray | WorkloadError:
    try:
        return shown(dataset, 0)
    except WorkloadError as error:
        return error


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "png", "webp"])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path, suffix):
    path = tmp_path / "a" / f"1.{suffix}"
    drawn = picture(9, 7)
    write(path, drawn)
    dataset = read_image_folder(tmp_path, AS_STORED, AS_IS)
    whole, data = shown(dataset, 0), path.read_bytes()
    if suffix in LOSSLESS:
        assert np.array_equal(whole, drawn)
    refused = 0
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        got = pixels_or_error(dataset)
        if isinstance(got, WorkloadError):
            assert str(got).startswith(f"{path}: ")
            assert "\n" not in str(got)
            refused += 1
        else:
            assert np.array_equal(got, whole)
    assert refused >= len(data) - 20


def test_other_formats_are_refused_whatever_their_name(tmp_path):
    (tmp_path / "a").mkdir()
    buffer = io.BytesIO()
    Image.fromarray(picture(4, 4, 1)).save(buffer, "GIF")
    (tmp_path / "a" / "1.png").write_bytes(buffer.getvalue())
    assert "is no image; allowed: BMP, JPEG, PNG, WEBP" in refusal(
        read_image_folder(tmp_path, AS_STORED, AS_IS).batch, [0]
    )


def test_files_that_are_gone(tmp_path):
    write(tmp_path / "a" / "1.png", picture(4, 4))
    dataset = read_image_folder(tmp_path, AS_STORED, AS_IS)
    (tmp_path / "a" / "1.png").unlink()
    path = tmp_path / "a" / "1.png"
    assert refusal(dataset.batch, [0]) == f"{path}: cannot be read: No such file or directory"


def test_folders_that_are_no_dataset(tmp_path):
    read = read_image_folder
    nowhere = tmp_path / "nowhere"
    assert refusal(read, nowhere, AS_STORED) == (
        f"{nowhere}: cannot be read: No such file or directory"
    )
    assert refusal(read, tmp_path, AS_STORED) == (
        f"{tmp_path}: has no folder; allowed: one folder of images per class"
    )
    write(tmp_path / "a" / "1.png", picture(4, 4))
    (tmp_path / "b").mkdir()
    assert refusal(read, tmp_path, AS_STORED) == (
        f"{tmp_path / 'b'}: has no image; allowed: files .bmp, .jpeg, .jpg, .png, .webp"
    )
    assert "channels=2; allowed: 1 (grey) or 3 (RGB)" in refusal(
        read, tmp_path, AS_STORED, channels=2
    )
    two = Normalisation((0.0, 0.0), (1.0, 1.0))
    assert "2 means for images of 3 channels; allowed: 1 or 3" in refusal(read, tmp_path, two)


@pytest.mark.parametrize(
    ("resize", "crop", "message"),
    [
        (0, None, "resize=0; allowed: 1 or more, or None"),
        (None, -1, "crop=-1; allowed: 1 or more, or None"),
        (8, 9, "crop=9; allowed: 1..8, resize's length"),
    ],
)
def test_sizes_that_do_not_fit(resize, crop, message):
    assert refusal(Fit, resize, crop) == message


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path):
    """As its file says, and as it would be resized."""
    one = io.BytesIO()
    Image.new("1", (60_000, 2_000)).save(one, "PNG")  # 120,000,000 pixels in 15 kB
    (tmp_path / "class").mkdir()
    path = tmp_path / "class" / "a.png"
    path.write_bytes(one.getvalue())
    dataset = read_image_folder(tmp_path, AS_STORED, AS_IS)
    assert refusal(dataset.batch, [0]) == (
        f"{path}: 60000x2000 pixels; allowed: at most 67108864 in all"
    )
    Image.new("1", (60_000, 1)).save(path)
    wide = read_image_folder(tmp_path, AS_STORED, Fit(256, 224))
    assert "15360000x256 pixels; allowed: at most 67108864 in all" in refusal(wide.batch, [0])
