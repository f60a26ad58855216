import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from bfpsim import workloads
from bfpsim.workloads import (
    LayerWeights,
    NetworkBuilder,
    WorkloadError,
    load_images,
    load_metadata,
    load_weights,
    load_workload,
    normalise,
    read_fashion_mnist,
    save_images,
    save_weights,
    shipped_images,
    shipped_metadata,
    shipped_weights,
)
from bfpsim.workloads.checkpoint import load_state, save_state
from bfpsim.workloads.training.family import FAMILIES
from bfpsim.workloads.training.fashion import DEBIAN_FOLDER
from bfpsim.workloads.training.shipped import shipped_module
from tests.long import often
from tests.torch_network import weighted_module

NAME = "resnet18-fashion"
SHIPPED = ("googlenet-fashion", "mobilenetv2-fashion", "resnet18-fashion", "vit-fashion")
DATA = Path(workloads.__file__).parent / "data"


def tiny_network():
    build = NetworkBuilder("tiny", (1, 4, 4, 2))
    x = build.conv("a.conv", "input", 4, 3, groups=2)
    build.linear("fc", build.avgpool("mean", x), 3)
    return build.network()


def tiny_weights() -> dict[str, LayerWeights]:
    rng = np.random.default_rng(0)
    return {
        layer.name: LayerWeights(
            rng.standard_normal(layer.weight_shape, np.float32),
            rng.standard_normal(layer.weight_shape[0], np.float32),
        )
        for layer in tiny_network().layers
    }


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_weights(path, tiny_network(), tiny_weights(), {"seed": "0"})
    return path


def rewrite(path: Path, **changes: np.ndarray | None) -> None:
    """Replace, add or (None) remove tensors; ``a__b`` stands for ``a.b``."""
    tensors = load_file(path)
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, path)


def refusal(path: Path) -> str:
    with pytest.raises(WorkloadError) as caught:
        load_weights(path, tiny_network())
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_weights_come_back_bit_for_bit(saved):
    loaded = load_weights(saved, tiny_network())
    assert list(loaded) == ["a.conv", "fc"]
    for name, layer in tiny_weights().items():
        np.testing.assert_array_equal(loaded[name].weight, layer.weight)
        np.testing.assert_array_equal(loaded[name].bias, layer.bias)
    assert load_metadata(saved) == {"seed": "0"}
    assert list(saved.parent.iterdir()) == [saved]
    (saved.parent / "other").touch()
    assert saved.stat().st_mode == (saved.parent / "other").stat().st_mode


def test_weights_laid_out_otherwise_in_memory_are_stored_the_same(saved):
    weights = {
        name: LayerWeights(np.asfortranarray(layer.weight), layer.bias)
        for name, layer in tiny_weights().items()
    }
    save_weights(saved, tiny_network(), weights)
    np.testing.assert_array_equal(
        load_weights(saved, tiny_network())["a.conv"].weight, tiny_weights()["a.conv"].weight
    )


def test_missing_extra_and_misfitting_tensors(saved):
    rewrite(saved, fc__weight=None)
    assert "tensor 'fc.weight' is missing" in refusal(saved)
    rewrite(saved, fc__weight=tiny_weights()["fc"].weight)
    own = tiny_weights()["a.conv"].weight
    rewrite(saved, a__conv__weight=own[..., 0])
    assert refusal(saved).endswith("is F32 (4, 1, 3), must be F32 (4, 1, 3, 3)")
    rewrite(saved, a__conv__weight=own)
    rewrite(saved, fc__bias=np.zeros(4, np.float32))
    assert "tensor 'fc.bias' is F32 (4,), must be F32 (3,)" in refusal(saved)
    rewrite(saved, fc__bias=np.zeros(3, np.float64))
    assert "tensor 'fc.bias' is F64 (3,), must be F32 (3,)" in refusal(saved)
    rewrite(saved, fc__bias=np.zeros(3, np.float32), running_mean=np.zeros(1, np.float32))
    assert "tensor 'running_mean' belongs to nothing" in refusal(saved)


def mixed_network():
    """Every kind of layer, and a host's nodes with parameters of their own."""
    build = NetworkBuilder("mixed", (1, 1, 6, 4))
    x = build.conv1d("line", "input", 6, 3, padding=1, groups=2)
    x = build.host("norm", "layer_norm", x)
    y = build.linear("keys", x, 6)
    x = build.matmul("product", x, y, 6)
    # Its name is the beginning of a layer's, whose weights are the layer's all the same.
    x = build.host("ou", "relu6", x)
    x = build.host("deep", "softmax", x)
    x = build.linear("deep.er", x, 6)
    x = build.host("scale", "mul", x, build.host("position", "parameter", shape=(1, 1, 1, 6)))
    x = build.host("offset", "add_parameter", x)
    build.conv("out", x, 5, 1)
    return build.network()


def mixed_state() -> dict[str, np.ndarray]:
    shapes = {
        "line.weight": (6, 2, 3),
        "keys.weight": (6, 6),
        "keys.bias": (6,),
        "deep.er.weight": (6, 6, 1),
        "deep.temperature": (1,),
        "out.weight": (5, 6, 1, 1),
        "norm.weight": (6,),
        "norm.bias": (6,),
        "position": (1, 1, 6),
        "offset": (1, 6, 6),
    }
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def test_a_modules_own_shapes_missing_biases_and_host_tensors(tmp_path):
    path, state = tmp_path / "mixed.safetensors", mixed_state()
    save_state(path, state, {"b": "1", "a": "2"})
    assert list(load_metadata(path)) == ["a", "b"]
    assert all(np.array_equal(load_state(path)[name], state[name]) for name in state)
    loaded = load_weights(path, mixed_network())
    # A product of activations has no weights.
    assert list(loaded) == ["line", "norm", "keys", "deep.er", "offset", "out"]
    assert loaded["line"].weight.shape == (6, 2, 1, 3)
    np.testing.assert_array_equal(loaded["line"].weight[:, :, 0], state["line.weight"])
    np.testing.assert_array_equal(loaded["keys"].weight[:, :, 0, 0], state["keys.weight"])
    np.testing.assert_array_equal(loaded["deep.er"].weight[..., 0], state["deep.er.weight"])
    np.testing.assert_array_equal(loaded["keys"].bias, state["keys.bias"])
    np.testing.assert_array_equal(loaded["norm"].weight, state["norm.weight"])
    np.testing.assert_array_equal(loaded["norm"].bias, state["norm.bias"])
    np.testing.assert_array_equal(loaded["offset"].weight[:, 0], state["offset"])
    for name, filters in (("line", 6), ("offset", 6), ("out", 5)):
        np.testing.assert_array_equal(loaded[name].bias, np.zeros(filters, np.float32))
        assert loaded[name].bias.dtype == np.float32


def test_weights_of_host_nodes_come_back_and_may_be_left_out(tmp_path):
    path, network = tmp_path / "mixed.safetensors", mixed_network()
    save_state(path, mixed_state())
    loaded = load_weights(path, network)
    save_weights(path, network, loaded)
    again = load_weights(path, network)
    assert list(again) == list(loaded)
    for name, own in loaded.items():
        np.testing.assert_array_equal(again[name].weight, own.weight)
        np.testing.assert_array_equal(again[name].bias, own.bias)
    less = {name: own for name, own in loaded.items() if name not in ("norm", "offset")}
    save_weights(path, network, less)
    assert list(load_weights(path, network)) == list(less)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("norm.weight", (1, 6), r"F32 \(1, 6\), must be F32 \(6,\)$"),
        ("offset", (6, 6), r"F32 \(6, 6\), must be F32 \(1, 1, 6, 6\) or \(1, 6, 6\)$"),
        ("normal.weight", (6,), "'normal.weight' belongs to nothing"),
        ("positions", (6,), "'positions' belongs to nothing"),
        ("product.weight", (6, 6), "'product.weight' belongs to nothing"),
        ("keys.scale", (6,), "'keys.scale' belongs to nothing"),
        ("line.weight", (6, 6), r"F32 \(6, 6\), must be F32 \(6, 2, 1, 3\) or \(6, 2, 3\)$"),
        ("line.weight", (6, 2, 3, 1), r"must be F32 \(6, 2, 1, 3\) or \(6, 2, 3\)$"),
        ("keys.weight", (36,), r"must be F32 \(6, 6, 1, 1\) or \(6, 6, 1\) or \(6, 6\)$"),
        ("out.bias", (1, 5), r"must be F32 \(5,\)$"),
    ],
)
def test_tensors_that_are_no_layers_or_have_another_shape(tmp_path, name, shape, message):
    path = tmp_path / "mixed.safetensors"
    save_state(path, {**mixed_state(), name: np.zeros(shape, np.float32)})
    with pytest.raises(WorkloadError, match=message):
        load_weights(path, mixed_network())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_a_number(saved, value):
    rewrite(saved, fc__bias=np.array([0, value, 0], np.float32))
    assert "tensor 'fc.bias' holds NaN or Inf" in refusal(saved)


def test_no_such_file_and_no_file_at_all(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "nowhere.safetensors")
    assert "cannot be read" in refusal(tmp_path)
    with pytest.raises(WorkloadError, match="cannot be read"):
        load_metadata(tmp_path / "nowhere.safetensors")


def test_a_file_cut_short_anywhere_is_refused(saved):
    data = saved.read_bytes()
    for length in range(0, len(data), 7):
        saved.write_bytes(data[:length])
        assert "cannot be read as a safetensors file" in refusal(saved)
    saved.write_bytes(data + b"\0")
    assert "cannot be read as a safetensors file" in refusal(saved)


def test_a_header_that_lies_about_its_length_or_offsets(saved):
    data = saved.read_bytes()
    saved.write_bytes(struct.pack("<Q", 2**62) + data[8:])
    assert "cannot be read as a safetensors file" in refusal(saved)
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["fc.bias"]["data_offsets"][1] += 4
    text = json.dumps(header).encode()
    saved.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    assert "cannot be read as a safetensors file" in refusal(saved)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_damaged_byte_gives_a_clear_refusal_or_whole_weights(tmp_path_factory, position, byte):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    save_weights(path, tiny_network(), tiny_weights())
    data = bytearray(path.read_bytes())
    data[position % len(data)] = byte
    path.write_bytes(data)
    try:
        loaded = load_weights(path, tiny_network())
    except WorkloadError:
        assert "\n" not in refusal(path)
    else:
        assert [layer.weight.shape for layer in loaded.values()] == [(4, 1, 3, 3), (3, 4, 1, 1)]


def test_weights_that_could_not_be_loaded_are_not_saved(saved):
    before = saved.read_bytes()
    bad = tiny_weights()
    bad["fc"] = LayerWeights(bad["fc"].weight, bad["fc"].bias * np.float32(np.nan))
    with pytest.raises(WorkloadError, match=r"tensor 'fc\.bias' holds NaN or Inf"):
        save_weights(saved, tiny_network(), bad)
    wide = tiny_weights()
    wide["fc"] = LayerWeights(wide["fc"].weight.astype(np.float64), wide["fc"].bias)
    with pytest.raises(WorkloadError, match=r"tensor 'fc\.weight' is float64"):
        save_weights(saved, tiny_network(), wide)
    with pytest.raises(WorkloadError, match=r"tensor 'fc\.weight' is missing"):
        save_weights(saved, tiny_network(), {"a.conv": bad["a.conv"]})
    assert saved.read_bytes() == before
    with pytest.raises(WorkloadError, match="there are no tensors to write"):
        save_state(saved, {})
    with pytest.raises(WorkloadError, match="cannot be written"):
        save_weights(saved.parent / "no" / "such", tiny_network(), tiny_weights())


def test_images_come_back_and_only_a_thousand_pass(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000, 28, 28), np.uint8)
    labels = rng.integers(0, 10, 1000).astype(np.uint8)
    path = tmp_path / "images.safetensors"
    save_images(path, images, labels)
    loaded = load_images(path)
    np.testing.assert_array_equal(loaded[0], images)
    np.testing.assert_array_equal(loaded[1], labels)
    with pytest.raises(WorkloadError, match=r"tensor 'images' is U8 \(999, 28, 28\)"):
        save_images(path, images[1:], labels)
    save_file({"images": images}, path)
    with pytest.raises(WorkloadError, match="tensor 'labels' is missing"):
        load_images(path)


def test_normalise_gives_the_training_sets_mean_and_deviation():
    pixels = np.array([[[0, 255, 51]]], np.uint8)
    normal = normalise(pixels)
    assert normal.shape == (1, 1, 3, 1)
    assert normal.dtype == np.float32
    expected = (np.array([0.0, 1.0, 0.2]) - 0.2860) / 0.3530
    np.testing.assert_allclose(normal.ravel(), expected, rtol=1e-6)
    for bad in (pixels.astype(np.float32), pixels[0]):
        with pytest.raises(WorkloadError, match=r"must be uint8 \(n, H, W\)"):
            normalise(bad)


def test_shipped_weights_reach_the_recorded_accuracy(torch_resnet18):
    """The forward pass is torch's own, on a module that knows nothing of this package."""
    module = torch_resnet18(16, 1, 10, True).eval()
    weights = shipped_weights(NAME)
    state = load_state(DATA / f"{NAME}.safetensors")
    module.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in state.items()})
    images, labels = shipped_images(NAME)
    inputs = torch.from_numpy(normalise(images).transpose(0, 3, 1, 2))
    with torch.no_grad():
        logits = module(inputs)
        ours = shipped_module(NAME)(inputs)
        layer_by_layer = weighted_module(load_workload(NAME), weights)(inputs).flatten(1)
    correct = int((logits.argmax(1).numpy() == labels).sum())
    metadata = shipped_metadata(NAME)
    # Another machine sums in another order: of a thousand images, a tie may fall the other way.
    assert abs(correct - int(metadata["first_1000_correct"])) <= 1
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer_by_layer, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", often(1, SHIPPED[::-1]))  # and ResNet-18 above
def test_shipped_modules_reach_the_recorded_accuracy(name):
    images, labels = shipped_images(name)
    inputs = torch.from_numpy(normalise(images).transpose(0, 3, 1, 2))
    with torch.no_grad():
        classes = shipped_module(name)(inputs).argmax(1).numpy()
    expected = int(shipped_metadata(name)["first_1000_correct"])
    assert abs(int((classes == labels).sum()) - expected) <= 1


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_the_modules_own_tensors(name):
    network, weights = load_workload(name), shipped_weights(name)
    state = shipped_module(name).state_dict()
    products = [node.name for node in network.nodes if node.op == "matmul"]
    assert {layer.name for layer in network.layers} <= {*weights, *products}
    for owner, own in weights.items():
        for part in ("weight", "bias"):
            tensor = state.pop(f"{owner}.{part}", None)
            if tensor is None and part == "weight":
                tensor = state.pop(owner)
            found = getattr(own, part)
            assert np.array_equal(found.ravel(), np.ravel(0 * found if tensor is None else tensor))
    assert not state


def test_shipped_files_are_small():
    sizes = {name: (DATA / f"{name}.safetensors").stat().st_size for name in SHIPPED}
    for name, size in sizes.items():
        network = load_workload(name)
        parameters = sum(
            np.prod(layer.weight_shape) + layer.G * layer.K for layer in network.layers
        )
        assert size < 4 * parameters + 100_000
    assert sum(sizes.values()) < 8 * 2**20


@pytest.mark.parametrize("name", SHIPPED)
def test_the_readme_says_what_the_metadata_do(name):
    text, metadata = (DATA / "README.md").read_text(), shipped_metadata(name)
    family = FAMILIES[name.removesuffix("-fashion")]
    assert metadata["network"] == name.removesuffix("-fashion")
    assert metadata["seed"] == "0"
    # The command names no width and no epochs.
    assert (metadata["width"], metadata["epochs"]) == (str(family.width), str(family.epochs))
    command = rf"--network {metadata['network']} +--out workloads/data/{name}\.safetensors"
    assert len(re.findall(command, text)) == 1
    correct, first = int(metadata["test_correct"]), int(metadata["first_1000_correct"])
    row = (
        f"| `{name}` | {metadata['epochs']} | {correct:,} ({correct / 100:.2f} %) "
        f"| {first} ({first / 10:.2f} %) |"
    )
    assert row in text
    most = float(re.search(r"test images by at most ([\d.e-]+)\.", text)[1])
    assert float(metadata["fold_max_logit_difference"]) <= most


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_metadata_agrees_with_itself_and_the_preprocessing(name):
    metadata = shipped_metadata(name)
    white = normalise(np.full((1, 1, 1), 255, np.uint8)).item()
    expected = (1 - float(metadata["mean"])) / float(metadata["std"])
    assert white == pytest.approx(expected, rel=1e-6)
    share = int(metadata["test_correct"]) / int(metadata["test_images"])
    assert float(metadata["test_accuracy"]) == pytest.approx(share, abs=5e-5)
    assert int(metadata["test_images"]) == 10_000
    assert share > 0.85


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is absent")
def test_shipped_images_are_the_first_thousand_of_the_test_set():
    images, labels = shipped_images(NAME)
    data = read_fashion_mnist(DEBIAN_FOLDER)
    np.testing.assert_array_equal(images, data.test_images[:1000])
    np.testing.assert_array_equal(labels, data.test_labels[:1000])
    assert data.train_images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert data.train_images.std() / 255 == pytest.approx(0.3530, abs=1e-4)


def test_only_the_trained_networks_have_shipped_weights():
    for shipped in (shipped_weights, shipped_images, shipped_metadata):
        what = "images" if shipped is shipped_images else "weights"
        message = f"workload 'resnet18': no {what} are shipped, only for {', '.join(SHIPPED)}"
        with pytest.raises(WorkloadError, match=f"^{message}$"):
            shipped("resnet18")


def test_importing_the_package_does_not_import_torch():
    code = "import sys, workloads; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
