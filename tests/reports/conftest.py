import pytest

from bfpsim.arch import load_arch
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.search.buffers import sweep_capacity
from bfpsim.sim.validate import validate
from bfpsim.workloads import NetworkBuilder
from tests.generate import deep_arch

BFP8 = LayerFormats.uniform(BFP(8, 3, 16))


@pytest.fixture(scope="session")
def network():
    build = NetworkBuilder("tiny", input_shape=(1, 12, 12, 8))
    x = build.conv("conv1", "input", 16, kernel=3, padding=1)
    build.conv("conv2", x, 32, kernel=3, stride=2, padding=1)
    return build.network()


@pytest.fixture(scope="session")
def sweep(network):
    return sweep_capacity(network, load_arch("ideal-64k"), BFP8, ["2 KiB", "4 KiB", "8 KiB"])


@pytest.fixture(scope="session")
def validation(network):
    return validate(network, load_arch("ideal-16k"), BFP8)


@pytest.fixture(scope="session")
def deep(network):
    """On a machine with an input buffer and accumulators inside SRAM, narrow ports and fill."""
    inner = {"in": Mapping("CP", {"C": 4, "P": 2}), "acc": Mapping("PQ", {"P": 1, "Q": 4})}
    mappings = {
        "conv1": Mapping("P", {"P": 6}, inner),
        "conv2": Mapping("KP", {"K": 16, "P": 3}),
    }
    return validate(network, deep_arch(), BFP8, mappings)
