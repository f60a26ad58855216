import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bfpsim.workloads import WorkloadError, read_fashion_mnist, read_idx
from tests.idx_file import CODES, idx_bytes


@given(
    array=st.sampled_from(sorted(CODES)).flatmap(
        lambda code: hnp.arrays(code, hnp.array_shapes(max_dims=4, min_side=1, max_side=4))
    ),
    zipped=st.booleans(),
)
def test_reads_what_the_format_describes(tmp_path_factory, array, zipped):
    path = tmp_path_factory.mktemp("idx") / ("a.gz" if zipped else "a")
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
    read = read_idx(path)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    assert read.flags.writeable


SAMPLE = idx_bytes(np.arange(6, dtype="i2").reshape(2, 3))
_ROWS = bytes([0, 0, 8, 1]) + (1 << 30).to_bytes(4, "big")
BOMB = gzip.compress(_ROWS + bytes(1 << 20), mtime=0) + 300 * gzip.compress(bytes(1 << 20))
ZIPPED = gzip.compress(SAMPLE, mtime=0)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a", b"", "not an IDX file"),
        ("a", b"\0\0\x08", "not an IDX file"),
        ("a", b"\x89PNG" + SAMPLE, "not an IDX file"),
        ("a", b"\0\0\x0a" + SAMPLE[3:], "type code 0x0a must be one of 0x08, 0x09"),
        ("a", b"\0\0\x08\4" + bytes(4) + b"\xff" * 12, r"shape \(0, .*\); allowed: at most 8 ext"),
        ("a", b"\0\0\x08\1" + bytes(4), r"shape \(0,\); allowed: at most 8 extents, each from 1"),
        ("a", b"\0\0\x08\x09" + bytes([0, 0, 0, 1] * 9) + b"a", "allowed: at most 8 extents"),
        (
            "a.gz",
            BOMB,
            "unpacks to more than 268435456 bytes; allowed: 268435456, or 100 times",
        ),
        ("a", b"\0\0\x08\0", "header of 0 dimensions"),
        ("a", SAMPLE[:11], "header of 2 dimensions is empty or cut short"),
        ("a", SAMPLE[:-1], r"11 bytes of data, must be 12 for shape \(2, 3\)"),
        ("a", SAMPLE + b"\0", "13 bytes of data, must be 12"),
        ("a", b"\0\0\x08\x04" + b"\xff" * 16, "0 bytes of data, must be"),
        ("a.gz", SAMPLE, "corrupt gzip file"),
        ("a.gz", b"", "0 bytes|not an IDX file"),
        ("a.gz", ZIPPED[:-9], "corrupt gzip file"),
        ("a.gz", ZIPPED[:15] + b"\xff\xff" + ZIPPED[17:], "corrupt gzip file"),
        ("a.gz", ZIPPED[:-5] + b"\x55" + ZIPPED[-4:], "corrupt gzip file: CRC check failed"),
        ("a.gz", ZIPPED + b"trailing", "corrupt gzip file"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(WorkloadError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WorkloadError, match="nowhere: cannot be read: No such file"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(WorkloadError, match="cannot be read: it is a folder"):
        read_idx(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A folder in Fashion-MNIST's layout, 3 training and 2 test images, some files gzipped."""
    for part, count, suffix in (("train", 3, ".gz"), ("t10k", 2, "")):
        images = np.arange(count * 784, dtype="u4").reshape(count, 28, 28).astype("u1")
        labels = np.arange(count, dtype="u1") + 7
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx_bytes(array)
            path = tmp_path / f"{part}-{name}-ubyte{suffix}"
            path.write_bytes(gzip.compress(data, mtime=0) if suffix else data)
    return tmp_path


def test_fashion_mnist_is_read_gzipped_or_not(folder):
    data = read_fashion_mnist(folder)
    assert data.train_images.shape == (3, 28, 28)
    assert data.test_images[1, 0, 0] == 784 % 256
    assert data.train_labels.tolist() == [7, 8, 9]
    assert data.test_labels.tolist() == [7, 8]


@pytest.mark.parametrize(
    "name",
    ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"],
)
def test_the_missing_file_is_named(folder, name):
    for path in folder.glob(f"{name}-ubyte*"):
        path.unlink()
    with pytest.raises(WorkloadError, match=f"has neither {name}-ubyte nor {name}-ubyte.gz"):
        read_fashion_mnist(folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("t10k-images-idx3-ubyte", np.zeros((2, 28, 27), "u1"), r"must be uint8 \(n, 28, 28\)"),
        ("t10k-images-idx3-ubyte", np.zeros((2, 28, 28), "f4"), r"must be uint8 \(n, 28, 28\)"),
        ("t10k-labels-idx1-ubyte", np.zeros(3, "u1"), r"must be uint8 \(2,\), one label per image"),
        ("t10k-labels-idx1-ubyte", np.zeros(2, "i4"), "one label per image"),
        ("t10k-labels-idx1-ubyte", np.full(2, 10, "u1"), "label 10 must be below 10"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(folder, name, array, message):
    (folder / name).write_bytes(idx_bytes(array))
    with pytest.raises(WorkloadError, match=message) as caught:
        read_fashion_mnist(folder)
    assert str(caught.value).startswith(f"{folder / name}: ")
