"""Names, paths and tensors in the place of objects; reprs; and what is immutable."""

import copy
import dataclasses
import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import bfpsim as bs
from bfpsim.arch import shipped
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import LayerWeights

ARCH = "ideal-64k"
NETWORK = "resnet18-fashion"
LAYER = bs.ConvLayer("c", K=16, C=8, P=6, Q=5, R=3, S=3, padding=1)
MAPPING = bs.Mapping("K", {"K": 16})


@pytest.fixture(scope="module")
def arch() -> bs.Arch:
    return bs.load_arch(ARCH)


@pytest.fixture(scope="module")
def network() -> bs.Network:
    tiny = bs.NetworkBuilder("tiny", (1, 6, 5, 8))
    tiny.conv("c2", tiny.conv("c1", "input", 16, (3, 3)), 8, (1, 1))
    return tiny.network()


@pytest.fixture(scope="module")
def files(arch, network, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "arch.yaml").write_text(bs.dump_arch(arch))
    bs.save_workload(network, folder / "net.yaml")
    formats = bs.LayerFormats.uniform(bs.parse_format("bfp8"))
    bs.save_mappings(folder / "map.yaml", bs.find_mapping(network, arch, formats))
    return folder


def uniform(name: str) -> bs.LayerFormats:
    return bs.LayerFormats.uniform(bs.parse_format(name))


# --- formats -------------------------------------------------------------------------------------

BFP8, BFP16 = bs.parse_format("bfp8"), bs.parse_format("bfp16")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("bfp8", (BFP8, BFP8, BFP8)),
        (BFP8, (BFP8, BFP8, BFP8)),
        ("bfp8,bfp16,plain32", (BFP8, BFP16, bs.Plain(32))),
        (bs.LayerFormats(BFP16, BFP8, BFP8), (BFP16, BFP8, BFP8)),
        ({"I": "bfp8", "W": BFP16, "O": "bfp8"}, (BFP8, BFP16, BFP8)),
    ],
)
def test_formats(arch, source, expected) -> None:
    assert bs.simulate(LAYER, arch, MAPPING, source).formats == bs.LayerFormats(*expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bfp9", "format 'bfp9'; allowed: bfp8"),
        ("bfp8,bfp8", "has 2 parts; allowed: 1, or 3 for I,W,O"),
        (8, "8 is no format; allowed: bfp8"),
        (None, "None is no format"),
        ({"I": "bfp8"}, "is no format"),
        ({"I": "bfp8", "W": "bfp8", "O": 3}, "format '3'; allowed"),
    ],
)
def test_what_is_no_format(arch, source, message) -> None:
    with pytest.raises(bs.FormatError, match=message):
        bs.simulate(LAYER, arch, MAPPING, source)


# --- architectures, networks, mappings -----------------------------------------------------------


def test_a_layer_by_names(arch, files) -> None:
    formats = uniform("bfp8")
    whole = bs.simulate(LAYER, arch, MAPPING, formats)
    for source in (ARCH, files / "arch.yaml", str(files / "arch.yaml")):
        again = bs.simulate(LAYER, source, MAPPING, "bfp8")
        pd.testing.assert_frame_equal(again.traffic, whole.traffic)
        assert again.cycles == whole.cycles
        for model in ("exact", "full"):
            pd.testing.assert_frame_equal(
                bs.predict(LAYER, source, MAPPING, "bfp8", model),
                bs.predict(LAYER, arch, MAPPING, formats, model),
            )
        assert bs.find_mapping(LAYER, source, "bfp8") == bs.find_mapping(LAYER, arch, formats)
        assert bs.rescored(LAYER, source, "bfp8", 2) == bs.rescored(LAYER, arch, formats, 2)
    assert bs.simulate(LAYER, ARCH).mapping == bs.find_mapping(LAYER, arch, formats, model="full")


def test_a_network_where_a_layer_is(arch, network, files) -> None:
    formats = uniform("bfp8")
    whole = simulate_layers(network, arch, formats)
    for source in (network, files / "net.yaml", str(files / "net.yaml")):
        result = bs.simulate(source, ARCH, formats="bfp8", layers="alone")
        assert isinstance(result, bs.NetworkResult)
        pd.testing.assert_frame_equal(result.traffic, whole.traffic)
    assert bs.simulate(network, ARCH, layers="alone").cycles == whole.cycles
    mappings = bs.find_mapping(network, ARCH, "bfp8")
    assert list(mappings) == ["c1", "c2"]
    expected = simulate_layers(network, arch, formats, mappings)
    by_file = files / "map.yaml"
    for given in (mappings, by_file, str(by_file)):
        for result in (
            bs.simulate(network, ARCH, given, "bfp8", layers="alone"),
            bs.simulate(network, ARCH, mappings=given, formats="bfp8", layers="alone"),
            bs.simulate_network(network, ARCH, "bfp8", given, layers="alone"),
            bs.validate(network, ARCH, "bfp8", given).simulated,
        ):
            pd.testing.assert_frame_equal(result.traffic, expected.traffic)
        predicted = bs.predict(network, ARCH, given, "bfp8", "full")
        assert predicted["bits"].sum() == expected.traffic["bits"].sum()
        assert set(predicted["layer"]) == {"c1", "c2"}
        assert set(predicted["network"]) == {"tiny"}
    by_layer = {"c1": "bfp8", "c2": "bfp16"}
    mixed = bs.simulate(network, ARCH, formats=by_layer)
    assert [str(layer.formats) for layer in mixed.layers] == ["bfp8e3b16", "bfp16e5b16"]


def test_a_network_that_runs_a_layer_often_is_predicted_as_often() -> None:
    layer = bs.ConvLayer("fc", K=4, C=8, P=1, Q=1)
    nodes = bs.load_workload("vit-fashion")
    repeated = next(node for node in nodes.nodes if node.repeats > 1)
    mappings = bs.find_mapping(nodes, ARCH, "bfp8")
    predicted = bs.predict(nodes, ARCH, mappings, "bfp8")
    once = bs.predict(repeated.layer, ARCH, mappings[repeated.name], "bfp8")
    of_layer = predicted[predicted["layer"] == repeated.name]
    assert of_layer["bits"].sum() == repeated.repeats * once["bits"].sum()
    assert bs.simulate(layer, ARCH).macs == 32


def test_torch_modules_are_networks() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    own = bs.load_workload(module, {"input": (1, 3, 4, 4)})
    assert bs.load_workload(own) is own
    alone = bs.simulate(own, ARCH, layers="alone")
    assert alone.cycles == simulate_layers(own, bs.load_arch(ARCH), "bfp8").cycles
    with pytest.raises(bs.WorkloadError, match=r"Sequential: shapes must give 'input'"):
        bs.simulate(module, ARCH)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda n: bs.simulate(n, "edge-1t"), bs.ArchError, "'edge-1t' is neither a file nor"),
        (lambda n: bs.simulate(n, 64), bs.ArchError, "64 is no architecture; allowed: an Arch, a"),
        (lambda n: bs.simulate("resnet99", ARCH), bs.WorkloadError, "resnet99"),
        (lambda n: bs.simulate(3, ARCH), bs.WorkloadError, "workload 3 must be"),
        (lambda n: bs.simulate(LAYER, ARCH, "K"), bs.MappingError, "mapping 'K' of the layer"),
        (lambda n: bs.simulate(LAYER, ARCH, mappings={}), bs.MappingError, "mappings= with the la"),
        (lambda n: bs.simulate(n, ARCH, MAPPING), bs.MappingError, "mappings of tiny: Mapping; al"),
        (lambda n: bs.simulate(n, ARCH, {}, mappings={}), bs.MappingError, "mapping= and mapp"),
        (lambda n: bs.simulate(n, ARCH, data=(1, 2)), bs.WorkloadError, "are of a single layer"),
        (lambda n: bs.simulate(n, ARCH, formats={"c1": "bfp8"}), bs.FormatError, "layer lack 'c2'"),
        (lambda n: bs.predict(n, ARCH, {}, "bfp8"), bs.MappingError, "mappings of tiny lack 'c1'"),
        (lambda n: bs.predict(LAYER, ARCH, {}, "bfp8"), bs.MappingError, "allowed: a Mapping"),
        (lambda n: bs.simulate(n, ARCH, Path("none")), (bs.MappingError, OSError), "none"),
        (
            lambda n: bs.load_workload(n, {"input": (1, 2)}), bs.WorkloadError,
            "network tiny: shapes are refused",
        ),
    ],
)  # fmt: skip
def test_what_stands_for_nothing(network, call, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call(network)


def test_other_functions_take_names_too(arch, files) -> None:
    network, formats, net = (
        bs.load_workload(files / "net.yaml"),
        uniform("bfp8"),
        files / "net.yaml",
    )
    for by_name, by_object in (
        (bs.map_network(net, ARCH, "bfp8"), bs.map_network(network, arch, formats)),
        (bs.traffic_curves(net, ARCH, "bfp8"), bs.traffic_curves(network, arch, formats)),
        (bs.workload_frame(net, "bfp8", ARCH), bs.workload_frame(network, formats, arch)),
        (bs.host_frame(net), bs.host_frame(network)),
        (
            bs.sweep_capacity(net, ARCH, "bfp8", ["8 KiB"]),
            bs.sweep_capacity(network, arch, formats, ["8 KiB"]),
        ),
    ):
        pd.testing.assert_frame_equal(by_name, by_object)
    assert bs.dump_arch(ARCH) == bs.dump_arch(arch)
    images = np.ones((2, 6, 5, 8))
    own = {
        name: LayerWeights(np.ones(shape, np.float32), np.zeros(shape[0], np.float32))
        for name, shape in (("c1", (16, 8, 3, 3)), ("c2", (8, 16, 1, 1)))
    }
    bs.save_weights(files / "weights.safetensors", net, own)
    assert list(bs.load_weights(files / "weights.safetensors", net)) == ["c1", "c2"]
    bs.save_workload(net, files / "again.yaml")
    assert bs.load_workload(files / "again.yaml") == network
    assert list(bs.load_mappings(files / "map.yaml", net, ARCH)) == ["c1", "c2"]
    assert bs.catalog_report([net]).summary == bs.catalog_report([network]).summary
    runs = [
        bs.run_inference(n, a, f, own, images).outputs
        for n, a, f in ((net, ARCH, "bfp8"), (network, arch, formats))
    ]
    assert np.array_equal(*runs)


# --- data ----------------------------------------------------------------------------------------


def convolved(layer: bs.ConvLayer, inputs: torch.Tensor, weights: torch.Tensor) -> np.ndarray:
    """The layer's exact output of small integers, by torch."""
    padding = layer.paddings[0], layer.paddings[2]
    sums = F.conv2d(inputs.double(), weights.double(), padding=padding)
    return sums.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", ["torch", "numpy"])
def test_torch_tensors_with_gradients_are_data(dtype, order) -> None:
    """Small integers, which Plain(32) holds exactly."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-4, 5, (1, 8, 6, 5), generator=generator).to(dtype).requires_grad_()
    w = nn.Parameter(torch.randint(-4, 5, (16, 8, 3, 3), generator=generator).to(dtype))
    given = x if order == "torch" else x.permute(0, 2, 3, 1)
    result = bs.simulate(LAYER, ARCH, MAPPING, "plain32", data=(given, w))
    expected = convolved(LAYER, x.detach(), w.detach())
    assert np.array_equal(result.output, expected)
    plain = x.detach().permute(0, 2, 3, 1).double().numpy(), w.detach().double().numpy()
    assert np.array_equal(bs.simulate(LAYER, ARCH, MAPPING, "plain32", data=plain).output, expected)


def test_torch_tensors_of_equal_extents_are_as_torch_lays_them_out() -> None:
    layer = bs.ConvLayer("c", K=3, C=3, P=3, Q=3, R=3, S=3, padding=1)
    x, w = torch.arange(27.0).reshape(1, 3, 3, 3), torch.arange(81.0).reshape(3, 3, 3, 3) % 7 - 3
    result = bs.simulate(layer, ARCH, formats="plain32", data=(x, w))
    assert np.array_equal(result.output, convolved(layer, x, w))


@pytest.mark.parametrize(
    ("layer", "shape", "module"),
    [
        (bs.ConvLayer("fc", K=5, C=7, P=1, Q=1, N=3), (3, 7), nn.Linear(7, 5, bias=False)),
        (bs.ConvLayer("fc", K=5, C=7, P=4, Q=1, N=3), (3, 4, 7), nn.Linear(7, 5, bias=False)),
        (bs.ConvLayer("fc", K=5, C=4, P=4, Q=1, N=3), (3, 4, 4), nn.Linear(4, 5, bias=False)),
        (
            bs.ConvLayer("c", K=5, C=4, P=1, Q=4, S=3, padding=(0, 1), N=2),
            (2, 4, 4),
            nn.Conv1d(4, 5, 3, padding=1, bias=False),
        ),
    ],
)
def test_torch_tensors_of_fewer_dimensions(layer, shape, module) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-4, 5, shape, generator=generator).float()
    with torch.no_grad():
        module.weight.copy_(torch.randint(-4, 5, module.weight.shape, generator=generator))
        expected = module(x)
    if isinstance(module, nn.Conv1d):
        expected = expected.transpose(1, 2)
    result = bs.simulate(layer, ARCH, formats="plain32", data=(x, module.weight))
    assert np.array_equal(result.output, expected.reshape(layer.output_shape).numpy())


def test_tensors_of_other_extents_are_refused() -> None:
    w = torch.ones(16, 8, 3, 3)
    for shape in ((1, 8, 5, 6), (8, 6, 5), (1, 6, 5, 8, 1), (240,)):
        with pytest.raises(bs.FormatError, match=r"c input has shape .*; allowed: \(1, 6, 5, 8\)"):
            bs.simulate(LAYER, ARCH, MAPPING, "bfp8", (torch.ones(shape), w))
    with pytest.raises(bs.FormatError, match=r"c weight has shape .*; allowed: \(16, 8, 3, 3\)"):
        bs.simulate(LAYER, ARCH, MAPPING, "bfp8", (torch.ones(1, 8, 6, 5), torch.ones(16, 72)))


# --- immutable objects ---------------------------------------------------------------------------


def immutable_objects() -> list[object]:
    arch = bs.load_arch(ARCH)
    return [
        arch, arch.sram, arch.dram, arch.pe_array, arch.pe_array.rows, arch.dma,
        bs.BFP(8, 3, 16), bs.Plain(8), uniform("bfp8"), bs.MiniFloat(4, 3), bs.Codings(),
        MAPPING, bs.Constraints(), LAYER, bs.load_workload(NETWORK), bs.Tradeoff(),
        bs.LossBudget(0.1), bs.CostBudget(3.0),
    ]  # fmt: skip


@pytest.mark.parametrize("thing", immutable_objects(), ids=lambda thing: type(thing).__name__)
def test_errors_of_immutable_objects_point_to_replace(thing) -> None:
    kind = type(thing)
    names = getattr(kind, "model_fields", None) or [f.name for f in dataclasses.fields(thing)]
    name = next(iter(names))
    before = getattr(thing, name)
    message = (
        rf"{kind.__name__}\.{name} cannot be set, .* frozen; .*bs\.replace\(it, {name}=\.\.\.\)"
    )
    for error in (AttributeError, ValueError, dataclasses.FrozenInstanceError):
        with pytest.raises(error, match=message):
            setattr(thing, name, before)
    with pytest.raises(AttributeError, match=r"cannot be deleted, .*bs\.replace"):
        delattr(thing, name)
    with pytest.raises(AttributeError, match=r"nonsense cannot be set"):
        thing.nonsense = 1
    for copied in (bs.replace(thing), copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))):
        assert copied == thing
    with pytest.raises(TypeError, match=f"{kind.__name__} has no 'nonsense' to replace; allowed: "):
        bs.replace(thing, nonsense=1)


def test_replace(arch) -> None:
    assert bs.replace(LAYER, K=32).K == 32
    assert bs.replace(bs.BFP(8, 3, 16), bits=9) == bs.BFP(9, 3, 16)
    with pytest.raises(bs.FormatError, match="leaves a mantissa of 1 bit"):
        bs.replace(bs.BFP(8, 3, 16), bits=4)
    assert bs.replace(arch.sram, capacity="32 KiB").capacity == 32 * 8192
    with pytest.raises(bs.ArchError, match=r"^Sram\.capacity: ") as caught:
        bs.replace(arch.sram, capacity="32 kilos")
    assert "\n" not in str(caught.value)
    small = bs.replace(arch, sram=bs.replace(arch.sram, capacity="32 KiB"))
    assert small == bs.replace(ARCH, "sram.capacity", "32 KiB")
    assert small == bs.replace(arch, "sram.capacity", "32 KiB")
    with pytest.raises(TypeError, match=r"allowed: replace\(arch, PATH, VALUE\) or replace\(it"):
        bs.replace(arch, "sram.capacity")
    with pytest.raises(TypeError, match="int cannot be replaced; allowed: an architecture, a part"):
        bs.replace(3, x=3)


def test_every_shipped_architecture_can_be_replaced_part_by_part() -> None:
    for name in shipped():
        arch = bs.load_arch(name)
        assert bs.replace(arch, name="other") == bs.replace(arch, "name", "other")
        for part in (arch.dram, arch.sram, arch.pe_array, arch.dma, *arch.inner):
            assert bs.replace(part) == part


def test_parts_of_an_architecture_are_public() -> None:
    made = bs.Arch(
        name="mine", clock="100 MHz",
        dram=bs.Dram(bandwidth="1 GB/s", latency="10 ns", burst="32 B"),
        sram=bs.Sram(capacity="8 KiB", width="64 bit"),
        pe_array=bs.PEArray(
            rows=bs.Axis(size=4, dim="C"), cols=bs.Axis(size=4, dim="K"), stationary="weight",
            mac_bits=8, accumulator_bits=32,
        ),
        dma=bs.Dma(halo="none"),
    )  # fmt: skip
    assert bs.simulate(LAYER, made).arch == made


# --- reprs ---------------------------------------------------------------------------------------


def short(thing: object) -> str:
    text = repr(thing)
    assert len(text.splitlines()) <= 8, text
    assert len(text) <= 1000, text
    return text


def test_reprs_of_simulations() -> None:
    program = bs.simulate(NETWORK, ARCH)
    assert f"<ProgramResult of {NETWORK} on {ARCH}\n" in short(program)
    result = bs.simulate(NETWORK, ARCH, layers="alone")
    total = int(result.traffic.query("level == 'DRAM'")["bits"].sum())
    assert f"<NetworkResult of {NETWORK} on {ARCH}\n" in short(result)
    assert f"DRAM {total:,} bit" in repr(result)
    assert f"{result.cycles:,} cycles" in repr(result)
    layer = result.layers[1]
    assert f"<LayerResult of {layer.layer.name} of {NETWORK} on {ARCH}\n" in short(layer)
    assert f"DRAM {int(layer.counts.total('DRAM')):,} bit" in repr(layer)
    assert short(bs.load_workload("resnet18")).startswith("<Network resnet18: ")
    assert "layers=<tuple of 21>" in short(bs.validate(NETWORK, ARCH, "bfp8"))
    report = bs.simulation_report(result, uniform("bfp8"))
    assert "frames=<Frames of 3>" in short(report)


def test_reprs_of_studies() -> None:
    module, images = bs.shipped_module(NETWORK), bs.shipped_test_images()
    classifier = bs.make_classifier(module, images, name=NETWORK, sample=4)
    assert f"<QuantizedModel of {NETWORK}: 21 products in float32; quantize>" == short(
        classifier.model
    )
    assert f"Classifier(name='{NETWORK}', " in short(classifier)
    some = type(classifier.sample)(images, 10)
    comparison = bs.compare_formats(classifier.model, some, {"a": bs.BFP(8, 3, 16)})
    assert "accuracy=<DataFrame: 1 rows x 9 columns>" in short(comparison)
    quantized = bs.quantize_activation(np.ones((1, 9, 9, 64)), bs.BFP(8, 3, 16))
    assert "fmt=bfp8e3b16" in short(quantized)


def test_every_public_function_that_takes_an_object_takes_its_name() -> None:
    """By annotations: no function of the API insists on an architecture, network or formats."""
    strict = re.compile(r"\b(Arch|Network|LayerFormats)\b")
    insisting = {}
    for name in bs.__all__:
        function = getattr(bs, name)
        if not inspect.isfunction(function):
            continue
        for parameter in inspect.signature(function).parameters.values():
            text = str(parameter.annotation)
            if strict.search(text) and "str" not in text and "Source" not in text:
                insisting.setdefault(name, []).append(parameter.name)
    assert insisting == {}
