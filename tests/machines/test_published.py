"""Simulated figures of known machines beside published ones; the files here say whose they are."""

import pytest

import bfpsim as bs
from benchmarks.machines import (
    ethos,
    ethos_mapped,
    eyeriss,
    mobilenet,
    nvdla,
    scale_sim,
    vela_feature_map_bytes,
)
from bfpsim.mapping.residency import placement
from bfpsim.quant.formats import layer_formats
from bfpsim.sim.program import PlannedProgram, plan_program
from tests.long import often


def test_scale_sim_to_the_cycle() -> None:
    """Cycles, simulated and in closed form, and words at SRAM."""
    table = scale_sim()
    assert len(table) == 24
    for published, own in (
        ("cycles", "simulated"),
        ("cycles", "closed"),
        ("I", "I_simulated"),
        ("W", "W_simulated"),
        ("O", "O_simulated"),
    ):
        assert table[own].tolist() == table[published].tolist(), own


def test_nvdla_takes_a_layer_of_each_kind_as_its_sheet_does() -> None:
    """3 x 3 with Winograd's 2.25 taken off, and 1 x 1."""
    table = nvdla(("Res2a_branch2b", "Res4a_branch2a"))
    assert table.computing.tolist() == [50_176 * 2.25, 12_544]


@pytest.mark.long
def test_nvdla_equals_its_sheet_but_for_the_layers_it_packs() -> None:
    table = nvdla().set_index("layer")
    convolutions = table.drop(index="fc1000")
    assert (convolutions.computing == convolutions.steady).all()
    equal = convolutions.computing == convolutions.sheet
    winograd = ~equal & (convolutions.computing == convolutions.winograd)
    assert (equal.sum(), winograd.sum()) == (36, 16)
    # The first packs 2 x 2 pixels of 3 channels into one group of 16.
    assert convolutions.index[~equal & ~winograd].tolist() == ["Conv1"]
    assert table.computing["Conv1"] == 4 * table.sheet["Conv1"]
    # The sheet counts 1,000 filters x 16 images in groups of 128, the array 8 folds of 128.
    assert table.computing["fc1000"] == 1024 == table.sheet["fc1000"] + 24


def test_ethos_takes_what_vela_estimates() -> None:
    """ResNet-18: compute cycles within 12 %, feature maps read from SRAM within a factor of 2."""
    table = ethos()
    assert len(table) == 21
    assert table.vela.sum() == 9_254_402
    for cycles in (table.computing, table.steady):
        assert abs(cycles.sum() / table.vela.sum() - 1) < 0.12
    assert round(vela_feature_map_bytes() / 1e6, 1) == 10.2
    assert 0.5 < table.I_kB[1:].sum() * 1e3 / vela_feature_map_bytes() < 2


@pytest.mark.long
def test_the_mapper_finds_blocks_for_ethos_that_are_as_fast() -> None:
    """And that read feature maps less often: they take more channels than the machine's 32."""
    mapped, own = ethos_mapped(), ethos()
    assert abs(mapped.computing.sum() / mapped.vela.sum() - 1) < 0.12
    assert mapped.computing.sum() < own.computing.sum()
    assert mapped.I_kB.sum() < own.I_kB.sum()


@pytest.mark.long
def test_mobilenet_on_ethos_runs_every_operator() -> None:
    """35 convolutions and the classifier, and 17 depthwise ones, which have no bound."""
    assert mobilenet().kind.value_counts().to_dict() == {"dense": 36, "depthwise": 17}


def live_bytes(planned: PlannedProgram) -> int:
    """The most that activations take of SRAM at an operation."""
    blocks = placement(planned.allocation, planned.plan.program, planned.arch).blocks
    stay = [block for block in blocks if not block.owner.tensor]
    operations = range(len(planned.plan.program.operations))
    return max(
        sum(block.bits for block in stay if block.first <= place <= block.last) // 8
        for place in operations
    )


# Vela 5.2.0, Shared_Sram, default arena, --disable-cascading: its peak is its live tensors.
@pytest.mark.parametrize(
    ("name", "peak"),
    often(1, [("resnet18", 802_816 + 200_704), ("mobilenetv2", 1_204_224 + 301_056)]),
)
@pytest.mark.parametrize("levels", often(1, [False, True]))
def test_ethos_keeps_the_tensors_that_vela_keeps(name: str, peak: int, levels: bool) -> None:
    """With ample SRAM: none is off chip but the network's input and output."""
    arch = bs.replace(bs.load_arch("ethos-u55-256"), "sram.capacity", "16 MiB")
    if not levels:  # they change nothing here, but are searched for seconds
        arch = bs.replace(arch, "levels", [])
    network = bs.load_workload(name)
    planned = plan_program(network, arch, layer_formats("plain8"))
    table = planned.run().traffic
    moved = table[(table.level == arch.levels[0].name) & (table.kind == "mantissa")]
    maps = moved[moved.tensor != "W"].groupby(["layer", "tensor"]).bits.sum()
    first, last = network.layers[0].name, network.layers[-1].name
    assert maps.to_dict() == {(first, "I"): 224 * 224 * 3 * 8, (last, "O"): 1000 * 8}
    assert live_bytes(planned) == peak


def test_eyeriss_computes_a_layer_as_published() -> None:
    layer = eyeriss(("CONV5",)).iloc[0]
    assert layer.PEs_simulated == layer.PEs == 156
    assert abs(layer.ms_simulated / layer.ms - 1) < 0.15
    assert abs(layer.MB_simulated / layer.MB - 1) < 0.15


@pytest.mark.long
def test_eyeriss_keeps_as_many_pes_busy_as_published() -> None:
    table = eyeriss().set_index("layer")
    assert table.PEs_simulated.round().tolist() == [151, 135, 156, 156, 156]
    # 55 rows are 3 folds of 14 and one of 13; the chip runs 11 x 14 PEs all the time.
    assert table.PEs.tolist() == [154, 135, 156, 156, 156]
    assert abs(table.ms_simulated.sum() / table.ms.sum() - 1) < 0.15
    assert abs(table.MB_simulated.sum() / table.MB.sum() - 1) < 0.15
