import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from workloads import (
    ConvLayer,
    LayerWeights,
    Network,
    NetworkBuilder,
    Node,
    load_images,
    load_metadata,
    load_weights,
    load_workload,
    normalise,
)
from workloads.training.fashion import augment, main, train
from workloads.training.fold import fold_batch_norm, max_difference
from workloads.training.module import NetworkModule, folded_module

NAME = "resnet18-fashion"


def residual_network() -> Network:
    build = NetworkBuilder("residual", (1, 9, 9, 4))
    x = build.conv("a", "input", 6, 3, stride=2, padding=(0, 1, 1, 2), groups=2)
    x = build.relu("r", x)
    y = build.conv("b", x, 6, 3, padding=2, dilation=2, groups=6)
    x = build.maxpool("p", build.add("sum", x, y, x), 3, stride=2, padding=1)
    build.conv("fc", build.avgpool("mean", x), 5, 1)
    return build.network()


def test_folding_keeps_what_the_module_computes():
    torch.manual_seed(0)
    module = NetworkModule(residual_network(), batch_norm=True)
    for norm in module.norms:
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, -2, 2)
            nn.init.uniform_(norm.bias, -1, 1)
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.1, 4)
    module.eval()
    folded = folded_module(residual_network(), fold_batch_norm(module))
    images = torch.randn(8, 4, 9, 9)
    assert sum(isinstance(norm, nn.BatchNorm2d) for norm in module.norms) == 2
    assert not any(isinstance(norm, nn.BatchNorm2d) for norm in folded.norms)
    assert module(images).std() > 0.1
    assert max_difference(module, folded, images) < 1e-5


def test_module_computes_the_sums_of_the_definition():
    """Against loops over every index, in integers, which floats hold exactly."""
    layer = ConvLayer("c", 2, 2, 3, 4, 2, 3, N=2, G=2, stride=(2, 1), padding=(1, 0, 0, 2))
    node = Node("c", "conv", ("i",), layer=layer)
    network = Network("one", (Node("i", "input", input_shape=layer.input_shape), node))
    rng = np.random.default_rng(1)
    images = rng.integers(-9, 10, layer.input_shape)
    weight = rng.integers(-9, 10, layer.weight_shape)
    bias = rng.integers(-9, 10, layer.weight_shape[0])
    padded = np.pad(images, ((0, 0), (1, 0), (0, 2), (0, 0)))
    expected = np.zeros(layer.output_shape, int)
    for n, p, q, k in np.ndindex(layer.output_shape):
        expected[n, p, q, k] = bias[k]
        first = k // layer.K * layer.C
        for c, r, s in np.ndindex(weight.shape[1:]):
            expected[n, p, q, k] += padded[n, 2 * p + r, q + s, first + c] * weight[k, c, r, s]
    weights = {"c": LayerWeights(weight.astype(np.float32), bias.astype(np.float32))}
    module = folded_module(network, weights)
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))
    output = module(inputs).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(output, expected)


def test_a_sum_takes_all_of_its_inputs():
    build = NetworkBuilder("sums", (1, 2, 2, 1))
    build.add("sum", build.conv("double", "input", 1, 1), "input", build.relu("relu", "input"))
    weights = {"double": LayerWeights(np.full((1, 1, 1, 1), 2, "f4"), np.zeros(1, "f4"))}
    module = folded_module(build.network(), weights)
    images = torch.tensor([[[[1.0, -1.0], [3.0, 0.0]]]])
    assert module(images).tolist() == [[[[4.0, -3.0], [12.0, 0.0]]]]


def test_a_concatenation_and_ceil_pooling_in_torch():
    build = NetworkBuilder("joined", (1, 2, 2, 1))
    x = build.conv("double", "input", 1, 1)
    build.maxpool("pool", build.concat("join", x, "input"), 1, stride=2)
    build.maxpool("rest", "join", 3, stride=2, ceil=True)
    build.concat("out", "pool", "rest")
    weights = {"double": LayerWeights(np.full((1, 1, 1, 1), 2, "f4"), np.zeros(1, "f4"))}
    images = torch.tensor([[[[1.0, -1.0], [3.0, 0.0]]]])
    output = folded_module(build.network(), weights)(images)
    assert output.tolist() == [[[[2.0]], [[1.0]], [[6.0]], [[3.0]]]]


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


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


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


@pytest.mark.usefixtures("one_thread")
def test_a_seed_settles_the_training():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (128, 28, 28), np.uint8), rng.integers(0, 10, 128)
    one, same, other = (
        fold_batch_norm(train(images, labels.astype(np.uint8), epochs=1, seed=seed))
        for seed in (3, 3, 4)
    )
    for name, layer in one.items():
        np.testing.assert_array_equal(layer.weight, same[name].weight)
        np.testing.assert_array_equal(layer.bias, same[name].bias)
    assert not np.array_equal(one["conv1"].weight, other["conv1"].weight)


@pytest.mark.usefixtures("one_thread")
def test_the_script_trains_and_writes_what_it_measured(tmp_path, data, capsys):
    out, images_out = tmp_path / "weights.safetensors", tmp_path / "images.safetensors"
    paths = ["--data", str(data), "--out", str(out), "--images-out", str(images_out)]
    assert main([*paths, "--epochs", "2", "--seed", "4"]) == 0
    metadata = load_metadata(out)
    assert (metadata["seed"], metadata["epochs"], metadata["test_images"]) == ("4", "2", "1000")
    assert 0 < float(metadata["fold_max_logit_difference"]) < 1e-2
    assert f"test_accuracy: {metadata['test_accuracy']}" in capsys.readouterr().out

    module = folded_module(load_workload(NAME), load_weights(out, load_workload(NAME)))
    images, labels = load_images(images_out)
    with torch.no_grad():
        logits = module(torch.from_numpy(normalise(images).transpose(0, 3, 1, 2)))
    correct = int((logits[:, :, 0, 0].argmax(1).numpy() == labels).sum())
    assert abs(correct - int(metadata["test_correct"])) <= 1
    assert metadata["first_1000_correct"] == metadata["test_correct"]


@pytest.mark.usefixtures("one_thread")
def test_bad_input_ends_with_code_2_and_one_line(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "has neither train-images-idx3-ubyte nor" in error
    for arguments, message in (
        (["--out", str(tmp_path / "no" / "x")], "its folder does not exist"),
        (["--out", str(tmp_path / "x"), "--epochs", "0"], "--epochs=0 must be at least 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
