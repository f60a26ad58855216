from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from bfpsim.workloads import (
    WorkloadError,
    load_images,
    load_metadata,
    load_weights,
    normalise,
    resnet18,
)
from bfpsim.workloads.training.family import FAMILIES
from bfpsim.workloads.training.fashion import augment, main
from bfpsim.workloads.training.shipped import load_module, shipped_module
from tests.idx_file import write_idx

# Widths at which a step takes a moment.
TINY = {"resnet18": 2, "mobilenetv2": 4, "googlenet": 8, "vit": 16}


def test_augmentation_shifts_and_flips_in_every_way():
    image = np.random.default_rng(0).integers(1, 256, (28, 28), np.uint8)
    padded = np.pad(image, 2)
    variants = {}
    for top in range(5):
        for left in range(5):
            crop = padded[top : top + 28, left : left + 28]
            variants[crop.tobytes()] = (top, left, False)
            variants[crop[:, ::-1].tobytes()] = (top, left, True)
    torch.manual_seed(0)
    made = augment(torch.from_numpy(np.repeat(image[None], 1000, 0))).numpy()
    assert {variants[each.tobytes()] for each in made} == set(variants.values())
    assert len(variants) == 50


@pytest.fixture
def data(tmp_path) -> Path:
    """Images that tell their label: class k is white in columns 2k to 2k + 5."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 128), ("t10k", 1000)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = rng.integers(0, 50, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label : 2 * label + 6] = 255
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n != "resnet18")) for n in FAMILIES]
)
@pytest.mark.usefixtures("one_thread")
def test_a_seed_settles_every_byte(tmp_path, data, name):
    """Of one step of training, and of the file's metadata."""
    files = [tmp_path / each for each in ("one", "same", "other")]
    for path, seed in zip(files, ("3", "3", "4"), strict=True):
        what = ["--network", name, "--width", str(TINY[name]), "--epochs", "1", "--seed", seed]
        assert main([*what, "--data", str(data), "--out", str(path)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    first, third = load_file(files[0]), load_file(files[2])
    assert first.keys() == third.keys()
    assert any(not np.array_equal(first[key], third[key]) for key in first)


@pytest.mark.usefixtures("one_thread")
def test_the_script_trains_and_writes_what_it_measured(tmp_path, data, capsys):
    out, images_out = tmp_path / "weights.safetensors", tmp_path / "images.safetensors"
    paths = ["--data", str(data), "--out", str(out), "--images-out", str(images_out)]
    assert main([*paths, "--width", "4", "--epochs", "3", "--seed", "4"]) == 0
    metadata = load_metadata(out)
    assert {
        key: metadata[key] for key in ("network", "width", "seed", "epochs", "test_images")
    } == {
        "network": "resnet18",
        "width": "4",
        "seed": "4",
        "epochs": "3",
        "test_images": "1000",
    }
    assert list(metadata) == sorted(metadata)
    assert 0 < float(metadata["fold_max_logit_difference"]) < 1e-2
    printed = capsys.readouterr().out
    assert f"test_accuracy: {metadata['test_accuracy']}" in printed
    assert "\x1b" not in printed
    assert printed.count("\n") == 3 + len(metadata)  # no bar: one line an epoch

    images, labels = load_images(images_out)
    inputs = torch.from_numpy(normalise(images).transpose(0, 3, 1, 2))
    with torch.no_grad():
        logits = load_module(out)(inputs)
    correct = int((logits.argmax(1).numpy() == labels).sum())
    assert abs(correct - int(metadata["test_correct"])) <= 1
    assert metadata["first_1000_correct"] == metadata["test_correct"]

    network = resnet18(width=4, size=28, channels=1, classes=10, stem="small")
    weights = load_weights(out, network)
    state = load_module(out).state_dict()
    assert [f"{name}.weight" for name in weights] == [key for key in state if "weight" in key]
    np.testing.assert_array_equal(weights["fc"].weight[:, :, 0, 0], state["fc.weight"])
    np.testing.assert_array_equal(weights["conv1"].bias, state["conv1.bias"])


@pytest.mark.usefixtures("one_thread")
def test_bad_input_ends_with_code_2_and_one_line(tmp_path, capsys):
    out = ["--out", str(tmp_path / "x")]
    for arguments, message in (
        (["--data", str(tmp_path)], "has neither train-images-idx3-ubyte nor"),
        (["--network", "vit", "--width", "5"], "vit: width=5 must be a multiple of 16 > 0"),
    ):
        assert main([*out, *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    for arguments, message in (
        (["--out", str(tmp_path / "no" / "x")], "its folder does not exist"),
        ([*out, "--epochs", "0"], "--epochs=0 must be at least 1"),
        ([*out, "--network", "vgg"], "invalid choice: 'vgg'"),
        ([*out, "--width", "wide"], "invalid int value: 'wide'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_shipped_module_is_ready_to_run():
    module = shipped_module("resnet18-fashion")
    assert not module.training
    assert all(parameter.device.type == "cpu" for parameter in module.parameters())
    state = torch.random.get_rng_state()
    shipped_module("resnet18-fashion")
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(WorkloadError, match="no weights are shipped"):
        shipped_module("resnet18")


def test_a_module_takes_exactly_its_own_tensors(tmp_path):
    path = tmp_path / "net.safetensors"
    full = {key: tensor.numpy() for key, tensor in FAMILIES["vit"].build(16).state_dict().items()}

    def refusal(state: dict[str, np.ndarray], **metadata: str) -> str:
        save_file(state, path, metadata)
        with pytest.raises(WorkloadError) as caught:
            load_module(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        return message.removeprefix(f"{path}: ")

    right = {"network": "vit", "width": "16"}
    save_file(full, path, right)
    images = torch.zeros(1, 1, 28, 28)
    expected = FAMILIES["vit"].build(16)
    expected.load_state_dict({key: torch.from_numpy(each) for key, each in full.items()})
    assert torch.equal(load_module(path)(images), expected(images))

    less = {key: each for key, each in full.items() if key not in ("norm.bias", "head.bias")}
    assert refusal(less, **right) == "tensors missing: head.bias, norm.bias"
    more = {**full, "cls_token": np.zeros(1, np.float32)}
    assert refusal(more, **right) == "tensors not its own: cls_token"
    wide = {**full, "norm.bias": np.zeros(17, np.float32)}
    assert refusal(wide, **right) == "tensor 'norm.bias' is (17,), must be (16,)"
    double = {**full, "norm.bias": np.zeros(16)}
    assert refusal(double, **right) == "tensor 'norm.bias' is F64 (16,), must be F32 (16,)"
    endless = {**full, "norm.bias": np.full(16, np.inf, np.float32)}
    assert refusal(endless, **right) == "tensor 'norm.bias' holds NaN or Inf"
    allowed = "resnet18, mobilenetv2, googlenet, vit"
    assert refusal(full) == f"metadata network='' must be one of {allowed}"
    assert refusal(full, network="vit") == "metadata width='' must be a whole number"
    assert refusal(full, network="vit", width="8") == "vit: width=8 must be a multiple of 16 > 0"
