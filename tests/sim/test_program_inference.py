"""The trained networks as programs, with data: bit for bit what whole tensors give."""

import numpy as np
import pytest

from bfpsim.arch import load_arch, replace
from bfpsim.quant.formats import layer_formats
from bfpsim.quant.formats.quantize import top_exponent
from bfpsim.sim.inference import infer
from bfpsim.sim.program import plan_program
from bfpsim.sim.program_inference import constants, run_program
from bfpsim.workloads import load_workload, normalise, shipped_images, shipped_weights
from bfpsim.workloads.program import program_of
from tests.long import often
from tests.programs import reference

NETWORKS = ("resnet18-fashion", "vit-fashion", "mobilenetv2-fashion", "googlenet-fashion")
MACHINES = ("edge-64k", "edge-64k-double", "edge-16k", "edge-64k-split", "edge-256k", "ideal-64k")


@pytest.mark.parametrize(
    ("network", "machine"),
    often(2, [(own, machine) for machine in MACHINES for own in NETWORKS]),
)
def test_trained_networks_give_what_whole_tensors_give(network: str, machine: str) -> None:
    own, weights, formats = load_workload(network), shipped_weights(network), layer_formats("bfp8")
    images = normalise(shipped_images(network)[0][:2])
    run = run_program(own, machine, formats, weights, images)
    batch, arch = own.batched(2), load_arch(machine)
    program = program_of(batch, vector=arch.vector is not None, block=formats.O.block_size)
    added = constants(program, batch, weights)
    floats = infer(batch, weights, images) | added
    tops = {name: top_exponent(floats[name], name) for name in program.activations}
    expected = reference(program, formats, weights, images, tops, added)
    for name, values in expected.items():
        np.testing.assert_array_equal(run.activations[name], values, err_msg=name)
    sizes = plan_program(batch, arch, formats).run()
    assert sizes.cycles == run.result.cycles
    assert [own.counts for own in sizes.operations] == [own.counts for own in run.result.operations]


def test_what_stays_changes_no_value() -> None:
    network, formats = "resnet18-fashion", layer_formats("bfp8")
    weights, images = shipped_weights(network), normalise(shipped_images(network)[0][:1])
    arch = load_arch("edge-64k")
    runs = [
        run_program(network, replace(arch, "sram.capacity", capacity), formats, weights, images)
        for capacity in ("8 KiB", "64 KiB")
    ]
    kept = [len(run.result.allocation.residents) for run in runs]
    assert kept[0] < kept[1]
    np.testing.assert_array_equal(runs[0].outputs, runs[1].outputs)
