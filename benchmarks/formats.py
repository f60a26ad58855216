"""Networks in formats of industry beside BFP: ``python -m benchmarks.formats``.

DRAM bits, energy and cycles of ResNet-18, MobileNetV2 (with ECA) and ViT-B/16 on edge-64k, in one
format for all tensors, each layer under the mapper's mapping of least energy; cycles also where
multipliers are 4 bits wide, so that significands up to that width take one pass.
"""

import sys
import time

from bfpsim.arch import load_arch, replace
from bfpsim.quant.formats import parse_format
from bfpsim.sim.simulate import simulate_layers

NETWORKS = ("resnet18", "mobilenetv2-eca", "vit-b16")
FORMATS = ("bfp8", "mxint8", "mxfp8e4m3", "mxfp6e2m3", "mxfp4", "nvfp4")


def main(networks: list[str]) -> None:
    """Print a row per network and format."""
    arch = load_arch("edge-64k")
    narrow = replace(arch, "pe_array.mac_bits", 4)
    print(f"One image on {arch.name}, mappings of least energy")
    print(
        f"  {'network':17}{'format':12}{'multiplier':>11}{'DRAM':>9}{'energy':>9}{'cycles':>9}"
        f"{'4-bit mult.':>12}{'time':>7}\n"
        f"  {'':17}{'':12}{'[bit]':>11}{'[Mbit]':>9}{'[mJ]':>9}{'[M]':>9}{'[M]':>12}{'[s]':>7}"
    )
    for network in networks or NETWORKS:
        for name in FORMATS:
            start = time.perf_counter()
            result = simulate_layers(network, arch, name, objective="energy")
            mappings = {layer.layer.name: layer.mapping for layer in result.layers}
            slower = simulate_layers(network, narrow, name, mappings)
            dram = sum(int(layer.counts.total("DRAM")) for layer in result.layers)
            print(
                f"  {network:17}{name:12}{parse_format(name).significand_bits:>11}"
                f"{dram / 1e6:>9.1f}{result.energy_pj / 1e9:>9.3f}{result.cycles / 1e6:>9.2f}"
                f"{slower.cycles / 1e6:>12.2f}{time.perf_counter() - start:>7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
