"""What the array's cycles are made of, and how much of it works: by hand, and lane by lane."""

import random
from itertools import product

import pytest

from bfpsim.arch import Arch, Ports, load_arch
from bfpsim.mapping.cycles import array_cycles
from bfpsim.mapping.nest import EVERY_DIM, Mapping, make_nest
from bfpsim.quant.formats import LayerFormats, Plain
from bfpsim.sim.demand import Demand, full_array
from bfpsim.sim.result import LayerResult, NetworkResult, repeated
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests.generate import deep_arch, random_arch, random_layer, random_mapping
from tests.long import often

WORDS = LayerFormats.uniform(Plain(8))
TWICE = LayerFormats(Plain(16), Plain(8), Plain(8))  # 11 bits of significand on 8-bit multipliers


def machine(fill: str = "none", size: int = 4, **sram: object) -> Arch:
    """Rows of C and columns of K, weights stationary; DRAM gives 128 bit a cycle at once."""
    part = {"capacity": "64 KiB", "width": "64 bit", **sram}
    return Arch.model_validate(
        {
            "name": "square",
            "clock": "1 GHz",
            "dram": {"bandwidth": "16 GB/s", "latency": "0 ns", "burst": "1 bit"},
            "sram": part,
            "pe_array": {
                "rows": {"size": size, "dim": "C"},
                "cols": {"size": size, "dim": "K"},
                "stationary": "weight",
                "mac_bits": 8,
                "accumulator_bits": 32,
                "fill": fill,
            },
        }
    )


def run(layer: ConvLayer, arch: Arch, formats: LayerFormats = WORDS) -> LayerResult:
    return simulate(layer, arch, Mapping(), formats)


def parts(result: LayerResult) -> tuple[int, int, int]:
    return result.steady_cycles, result.fill_cycles, result.port_cycles


FOUR = ConvLayer("four", K=4, C=4, P=2, Q=2)


def test_a_sixteenth_of_the_lanes_shows_whatever_the_array_is_busy() -> None:
    result = run(ConvLayer("thin", K=16, C=1, P=32, Q=32), machine(size=16))
    assert result.steady_cycles == result.compute_cycles == 32 * 32
    overall, spatial, temporal = result.utilisation
    assert spatial == 1 / 16
    assert temporal == result.compute_cycles / result.cycles > 0.3
    assert overall == 16 * 32 * 32 / (256 * result.cycles)


def test_filling_and_ports_are_apart_from_multiplying() -> None:
    """A load of SCALE-Sim takes 2 rows + columns + T - 2 cycles: here 14, of which T = 4 work."""
    assert parts(run(FOUR, machine())) == (4, 0, 0)
    assert parts(run(FOUR, machine("each_fold"))) == (4, 10, 0)
    # 16 inputs and 16 weights of 8 bits through 16 bits a cycle take 16 cycles.
    narrow = machine("each_fold", ports={"read": "16 bit"})
    assert parts(run(FOUR, narrow)) == (4, 10, 2)
    assert parts(run(FOUR, machine(ports={"read": "16 bit"}))) == (4, 0, 12)
    assert parts(run(FOUR, machine(ports={"write": "16 bit"}))) == (4, 0, 4)  # 16 results


def test_products_of_wide_operands_fill_the_lanes_as_often_as_they_pass() -> None:
    once, twice = run(FOUR, machine()), run(FOUR, machine(), TWICE)
    assert (once.products, twice.products) == (once.macs, 2 * twice.macs)
    assert twice.steady_cycles == 2 * once.steady_cycles
    assert once.utilisation.spatial == twice.utilisation.spatial == 1
    overall, spatial, temporal = twice.utilisation
    assert overall == pytest.approx(spatial * temporal / 2)


def test_a_networks_shares_are_of_its_sums() -> None:
    thin = run(ConvLayer("thin", K=4, C=1, P=8, Q=8), machine())
    full = repeated(run(FOUR, machine()), 3)
    both = NetworkResult("both", thin.arch, (thin, full), 2)
    cycles = thin.cycles + full.cycles
    assert both.compute_cycles == 64 + 3 * 4
    assert both.utilisation == (
        (4 * 64 + 3 * 64) / (16 * cycles),
        (4 * 64 + 3 * 64) / (16 * (64 + 12)),
        (64 + 12) / cycles,
    )


def lanes_and_times(layer: ConvLayer, arch: Arch, mapping: Mapping) -> int:
    """Cycles in which some lane multiplies: every multiply-accumulate put on its lane and time.

    Also sees that no lane does two at once.
    """
    nest = make_nest(layer, mapping)
    axes = [(axis.dim, axis.size) for axis in arch.pe_array.axes]
    unrolled = "".join(dim for dim, _ in axes)
    times, taken = set(), set()
    for place in product(*(range(nest.extents[d]) for d in EVERY_DIM)):
        at = dict(zip(EVERY_DIM, place, strict=True))
        tile = tuple(at[d] // nest.tile[d] for d in EVERY_DIM)
        inside = {d: at[d] % nest.tile[d] for d in EVERY_DIM}
        ends = {d: min(nest.tile[d], nest.extents[d] - at[d] + inside[d]) for d in EVERY_DIM}
        lanes, folds = [], []
        for dims, size in axes:
            flat = 0
            for dim in dims:
                flat = flat * ends[dim] + inside[dim]
            lanes.append(flat % size)
            folds.append(flat // size)
        when = (tile, *folds, *(inside[d] for d in EVERY_DIM if d not in unrolled))
        assert (*lanes, when) not in taken
        taken.add((*lanes, when))
        times.add(when)
    return len(times)


@pytest.mark.parametrize("seed", often(25, range(400)))
def test_every_lane_and_cycle_is_counted(seed: int) -> None:
    rng = random.Random(seed)
    layer = random_layer(rng, largest=4)
    while layer.macs > 6000:
        layer = random_layer(rng, largest=4)
    arch = random_arch(rng)
    mapping = random_mapping(rng, layer, WORDS)
    result = simulate(layer, arch, mapping, WORDS)
    steady = lanes_and_times(layer, arch, mapping)
    passes = {4: 4, 8: 1}[arch.pe_array.mac_bits]  # 8 x 8 bits on 4 x 4 multipliers
    assert parts(result) == (passes * steady, 0, 0)
    assert result.utilisation.spatial == layer.macs / (arch.pe_array.size * steady)
    assert result.utilisation.overall == layer.macs / (arch.pe_array.size * result.cycles)


def test_models_price_what_the_simulator_counts_per_repeat() -> None:
    arch = machine("overlapped", ports={"read": "48 bit", "write": "16 bit"})
    layer, mapping = ConvLayer("c", K=10, C=7, P=5, Q=6), Mapping("KPC", {"K": 3, "P": 2, "C": 4})
    result = simulate(layer, arch, mapping, WORDS)
    assert parts(result) == array_cycles(layer, arch, mapping, WORDS)
    assert all(parts(result))
    assert parts(repeated(result, 5)) == tuple(5 * own for own in parts(result))
    assert result.cycles == result.compute_cycles + sum(result.stalls.values())


# --- ports without a limit ----------------------------------------------------------------------


def demanded(*layers: LayerResult) -> list[Demand]:
    return NetworkResult("some", layers[0].arch, layers, len(layers)).demands


def test_what_passes_ports_without_a_limit_is_of_the_array_alone() -> None:
    """4 cycles: 16 inputs and 16 weights of 8 bits are read, 16 results of 8 bits written."""
    read, write = demanded(run(FOUR, machine()))
    assert read == ("SRAM", "read", 64, 64.0, 64.0, "four")
    assert write == ("SRAM", "write", 64, 32.0, 32.0, "four")
    assert not read.exceeds
    assert not write.exceeds
    # With a shared port the engine's 32 operands come in there, too, and its 16 results go out.
    arch = machine()
    shared = arch.model_copy(update={"dma": arch.dma.model_copy(update={"port": "shared"})})
    read, write = demanded(run(FOUR, shared))
    assert (read.average, write.average) == (96.0, 96.0)
    assert read.exceeds


def test_the_worst_layer_is_named_and_a_limit_is_no_excess() -> None:
    deep = ConvLayer("deep", K=4, C=8, P=2, Q=2)  # a second fold of C: 16 sums go and come back
    read, write = demanded(run(FOUR, machine()), run(deep, machine()))
    assert read[3:] == ((256 + 512 + 512) / 12, (512 + 512) / 8, "deep")
    assert write[3:] == ((128 + 128 + 512) / 12, (128 + 512) / 8, "deep")
    (write,) = demanded(run(FOUR, machine(ports={"read": "512 bit"})))
    assert write.direction == "write"


def test_buffers_of_each_tensor_are_apart() -> None:
    split = load_arch("ideal-64k-split")
    found = demanded(run(FOUR, split))
    assert [(one.memory, one.direction) for one in found] == [
        (f"SRAM {tensor}", direction) for tensor in "IWO" for direction in ("read", "write")
    ]


def test_a_full_array_streams_operands_and_sums() -> None:
    """16 x 16, weights stationary: 16 inputs of 8 bits; 16 sums of 32 bits go and come back."""
    read, write = full_array(load_arch("ideal-64k"))
    assert (read.most, write.most) == (16 * 8 + 16 * 32, 16 * 32)
    assert read.most / read.width == 5
    # Outputs stationary on 16 pixels x 16 filters: both operands stream, sums stay.
    by_memory = {
        (one.memory, one.direction): one.most for one in full_array(load_arch("ideal-64k-split"))
    }
    assert by_memory == {
        ("SRAM I", "read"): 128, ("SRAM W", "read"): 128, ("SRAM O", "read"): 0,
        ("SRAM I", "write"): 0, ("SRAM W", "write"): 0, ("SRAM O", "write"): 0,
    }  # fmt: skip


def test_sums_in_accumulators_ask_nothing_of_sram() -> None:
    deep = deep_arch()
    sram = deep.sram.model_copy(update={"ports": Ports()})
    read, write = full_array(deep.model_copy(update={"sram": sram}))
    assert (read.memory, read.most, write.most) == ("SRAM", 0, 0)  # inputs come out of `in`
