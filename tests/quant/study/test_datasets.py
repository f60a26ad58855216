"""Images come out as their bytes say; a file that holds something else is named in one line."""

import io
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bfpsim.quant.study.datasets import (
    AS_STORED,
    FASHION_MNIST,
    IMAGENET,
    ArrayDataset,
    Normalisation,
    batches,
    first,
    read_idx_dataset,
    read_npz_dataset,
    shipped_test_images,
)
from bfpsim.workloads import WorkloadError, normalise, shipped_images
from tests.idx_file import write_idx

RNG = np.random.default_rng(0)


def refusal(run, *arguments, **settings) -> str:
    with pytest.raises(WorkloadError) as caught:
        run(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def small(count: int = 5) -> ArrayDataset:
    pixels = RNG.integers(0, 256, (count, 3, 4, 6), np.uint8)
    return ArrayDataset(pixels, np.arange(count), IMAGENET)


# --- batches and normalisation ------------------------------------------------------------------


@given(count=st.integers(1, 9), size=st.integers(1, 11))
def test_batches_are_all_images_in_order(count, size):
    dataset = small(count)
    parts = list(batches(dataset, size))
    assert [len(part.labels) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert 1 <= len(parts[-1].labels) <= size
    assert torch.cat([part.labels for part in parts]).tolist() == list(range(count))
    whole = dataset.batch(range(count))
    assert torch.equal(torch.cat([part.inputs for part in parts]), whole.inputs)
    assert (whole.inputs.dtype, whole.labels.dtype) == (torch.float32, torch.int64)


def test_a_batch_is_in_the_order_of_its_indices():
    dataset = small(5)
    picked = dataset.batch([3, 0, 3])
    assert picked.labels.tolist() == [3, 0, 3]
    for place, index in enumerate((3, 0, 3)):
        assert torch.equal(picked.inputs[place], dataset.batch([index]).inputs[0])


def test_pixels_are_normalised_as_fractions_say():
    """Within three roundings of float32, each half a unit in the last place."""
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(256, 1, 1, 3).transpose(0, 3, 1, 2)
    inputs = ArrayDataset(pixels, np.zeros(256, int), IMAGENET).batch(range(256)).inputs
    for channel in range(3):
        mean, std = Fraction(IMAGENET.mean[channel]), Fraction(IMAGENET.std[channel])
        for value in range(256):
            exact = (Fraction(value, 255) - mean) / std
            error = abs(Fraction(inputs[value, channel, 0, 0].item()) - exact)
            assert error < Fraction(4, 2**24) / std


def test_float_pixels_are_taken_as_they_are():
    pixels = RNG.standard_normal((3, 2, 4, 5)).astype(np.float32)
    dataset = ArrayDataset(pixels, np.zeros(3, int), AS_STORED)
    assert torch.equal(dataset.batch([2, 1]).inputs, torch.from_numpy(pixels[[2, 1]]))
    halved = ArrayDataset(pixels, np.zeros(3, int), Normalisation((0.5,), (2.0,)))
    assert torch.equal(halved.batch([0]).inputs, torch.from_numpy((pixels[:1] - 0.5) / 2))


def test_shipped_images_are_what_the_shipped_network_reads():
    dataset = shipped_test_images()
    pixels, labels = shipped_images("resnet18-fashion")
    whole = dataset.batch(range(len(dataset)))
    assert whole.inputs.shape == (1000, 1, 28, 28)
    assert np.array_equal(whole.inputs.numpy()[:, 0], normalise(pixels)[..., 0])
    assert whole.labels.tolist() == labels.tolist()


def test_the_first_images_are_a_view():
    dataset = small(5)
    view = first(dataset, 2)
    assert len(view) == 2
    (only,) = batches(view, 9)
    assert only.labels.tolist() == [0, 1]
    assert torch.equal(only.inputs, dataset.batch([0, 1]).inputs)
    for count in (0, 6):
        assert refusal(first, dataset, count) == f"first {count} images asked for; allowed: 1..5"
    assert "batch=0; allowed: 1 or more" in refusal(lambda: list(batches(dataset, 0)))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((), (), "0 means and 0 stds"),
        ((0.0, 0.0), (1.0,), "2 means and 1 stds"),
        ((0.0,), (0.0,), "std 0.0; allowed: finite numbers above 0"),
        ((float("nan"),), (1.0,), "mean nan; allowed: finite numbers"),
        ((0.0,), (float("inf"),), "std inf; allowed: finite numbers above 0"),
    ],
)
def test_a_normalisation_that_cannot_be(mean, std, message):
    assert message in refusal(Normalisation, mean, std)


@pytest.mark.parametrize(
    ("pixels", "labels", "classes", "message"),
    [
        (np.zeros((2, 4, 4), "u1"), [0, 0], None, "images uint8 (2, 4, 4); allowed: uint8 or"),
        (np.zeros((2, 1, 4, 4), "f8"), [0, 0], None, "images float64 (2, 1, 4, 4); allowed"),
        (np.zeros((0, 1, 4, 4), "u1"), [], None, "(0, 1, 4, 4) hold no pixel; allowed: at least"),
        (np.zeros((2, 1, 4, 4), "u1"), [0], None, "labels int64 (1,) for 2 images; allowed"),
        (np.zeros((2, 1, 4, 4), "u1"), [0.0, 1.0], None, "labels float64 (2,) for 2 images"),
        (np.zeros((2, 1, 4, 4), "u1"), [0, -1], None, "label -1 of image 1; allowed: 0 or more"),
        (np.zeros((2, 1, 4, 4), "u1"), [9, 10], 10, "label 10 of image 1; allowed: 0..9"),
        (
            np.zeros((2, 2, 4, 4), "u1"),
            [0, 0],
            None,
            "dataset: normalisation: 3 means for images of 2 channels",
        ),
    ],
)
def test_arrays_that_are_no_dataset(pixels, labels, classes, message):
    labels = np.array(labels, None if labels else int)
    assert message in refusal(ArrayDataset, pixels, labels, IMAGENET, classes)


def test_pixels_that_are_no_numbers():
    pixels = np.zeros((3, 1, 2, 2), np.float32)
    pixels[1, 0, 1, 0], pixels[2, 0, 0, 0] = np.nan, np.inf
    message = refusal(ArrayDataset, pixels, np.zeros(3, int), AS_STORED, name="mine")
    assert message == "mine: image 1 holds NaN or infinity; allowed: finite pixels"


# --- IDX ----------------------------------------------------------------------------------------


def test_idx_files(tmp_path):
    pixels = RNG.integers(0, 256, (4, 5, 7), np.uint8)
    images = write_idx(tmp_path / "images.gz", pixels)
    labels = write_idx(tmp_path / "labels.gz", np.array([3, 1, 0, 9], np.uint8))
    dataset = read_idx_dataset(images, labels, FASHION_MNIST, 10)
    whole = dataset.batch(range(len(dataset)))
    assert whole.labels.tolist() == [3, 1, 0, 9]
    assert np.array_equal(whole.inputs.numpy()[:, 0], normalise(pixels)[..., 0])

    assert f"{labels}: label 9 of image 3; allowed: 0..8" in refusal(
        read_idx_dataset, images, labels, FASHION_MNIST, 9
    )
    assert refusal(read_idx_dataset, labels, labels, FASHION_MNIST) == (
        f"{labels}: uint8 (4,); allowed: uint8 (n, H, W)"
    )
    assert f"{images}: labels uint8 (4, 5, 7) for 4 images" in refusal(
        read_idx_dataset, images, images, FASHION_MNIST
    )
    labels.write_bytes(labels.read_bytes()[:-9])
    assert refusal(read_idx_dataset, images, labels, FASHION_MNIST).startswith(
        f"{labels}: corrupt gzip file"
    )


# --- npz ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout", "source"),
    [
        ((4, 5, 7), None, (0, None, 1, 2)),
        ((4, 5, 3), None, (0, None, 1, 2)),
        ((4, 5, 7, 3), None, (0, 3, 1, 2)),
        ((4, 5, 7, 1), None, (0, 3, 1, 2)),
        ((4, 3, 5, 7), None, (0, 1, 2, 3)),
        ((4, 1, 5, 7), None, (0, 1, 2, 3)),
        ((4, 1, 5, 3), "NHWC", (0, 3, 1, 2)),
        ((4, 1, 5, 3), "NCHW", (0, 1, 2, 3)),
        ((4, 5, 6, 7), "NHWC", (0, 3, 1, 2)),
    ],
)
@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_npz_files_of_every_layout(tmp_path, shape, layout, source, dtype):
    """source: which stored axis each of n, channels, H, W is."""
    path = tmp_path / "data.npz"
    stored = RNG.integers(0, 256, shape).astype(dtype)
    np.savez(path, images=stored, labels=np.array([2, 0, 1, 300], "i2"), other=np.zeros(1))
    whole = read_npz_dataset(path, AS_STORED, layout=layout).batch(range(4))
    assert whole.labels.tolist() == [2, 0, 1, 300]
    assert whole.inputs.is_contiguous()
    for place in np.ndindex(*whole.inputs.shape):
        index = [0] * stored.ndim
        for axis, at in zip(source, place, strict=True):
            if axis is not None:
                index[axis] = at
        wanted = np.float32(stored[tuple(index)])
        assert whole.inputs[place].item() == (wanted / np.float32(255) if dtype == "u1" else wanted)


@pytest.mark.parametrize(
    ("arrays", "layout", "message"),
    [
        ({"images": (2, 4, 4)}, None, "has no array 'labels', only 'images'; allowed"),
        ({}, None, "has no array 'images', only none"),
        ({"images": (2, 3, 4, 3), "labels": (2,)}, None, "both of axes 1 and 3 could be"),
        ({"images": (2, 4, 4, 4), "labels": (2,)}, None, "neither of axes 1 and 3 could be"),
        ({"images": (2, 4, 4), "labels": (2,)}, "NHWC", "are not NHWC; allowed: 4 axes"),
        ({"images": (2, 4, 4, 1), "labels": (2,)}, "NHW", "are not NHW; allowed: 3 axes"),
        ({"images": (2, 4), "labels": (2,)}, None, "images uint8 (2, 4); allowed"),
        ({"images": (2, 4, 4), "labels": (3,)}, None, "labels uint8 (3,) for 2 images"),
    ],
)
def test_npz_files_that_are_no_dataset(tmp_path, arrays, layout, message):
    path = tmp_path / "data.npz"
    np.savez(path, **{name: np.zeros(shape, "u1") for name, shape in arrays.items()})
    error = refusal(read_npz_dataset, path, AS_STORED, layout=layout)
    assert error.startswith(f"{path}: ")
    assert message in error


def test_npz_files_that_are_not_there_or_run_code(tmp_path):
    path = tmp_path / "data.npz"
    assert refusal(read_npz_dataset, path, AS_STORED).endswith(": No such file or directory")
    np.save(tmp_path / "data.npy", np.zeros(3))
    assert "is one array (.npy); allowed: an .npz file" in refusal(
        read_npz_dataset, tmp_path / "data.npy", AS_STORED
    )
    np.savez(path, images=np.array([{}, {}]), labels=np.zeros(2, int))
    assert "allow_pickle=False" in refusal(read_npz_dataset, path, AS_STORED)


def dataset_or_error(path: Path) -> ArrayDataset | WorkloadError:
    try:
        return read_npz_dataset(path, AS_STORED)
    except WorkloadError as error:
        return error


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_file_is_refused_or_whole(tmp_path, save):
    """Cut anywhere, or a byte changed anywhere."""
    path = tmp_path / "data.npz"
    pixels, labels = RNG.integers(0, 256, (2, 3, 4), np.uint8), np.array([1, 0])
    buffer = io.BytesIO()
    save(buffer, images=pixels, labels=labels)
    data = buffer.getvalue()
    damaged = [data[:cut] for cut in range(len(data))]
    for at in range(len(data)):
        damaged.append(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
    refused = 0
    for each in damaged:
        path.write_bytes(each)
        got = dataset_or_error(path)
        if isinstance(got, WorkloadError):
            assert str(got).startswith(f"{path}: ")
            assert "\n" not in str(got)
            refused += 1
        else:
            assert np.array_equal(got.pixels[:, 0], pixels)
            assert np.array_equal(got.labels, labels)
    assert refused > len(data)


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bfpsim.workloads.images._SMALL", 1 << 20)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("images.npy", bytes(3 << 20))
        packed.writestr("labels.npy", b"")
    wrong = f"{path}: 'images.npy' unpacks to 3145728 bytes; allowed: at most 1048576"
    assert wrong in refusal(read_npz_dataset, path, AS_STORED)


@pytest.mark.parametrize("header", ["{'descr': '|O'}", "(" * 500, "{'shape': (1 << 62,)}", "'" * 9])
def test_a_header_that_is_none_is_refused(tmp_path, header):
    path = tmp_path / "images.npz"
    with zipfile.ZipFile(path, "w") as packed:
        text = header.encode()
        data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        packed.writestr("images.npy", data)
        packed.writestr("labels.npy", data)
    assert f"{path}: cannot be read as an .npz file: " in refusal(read_npz_dataset, path, AS_STORED)
