"""Every legal mapping of a layer that is small enough."""

from collections.abc import Iterator
from itertools import permutations, product

from bfpsim.arch import Arch
from bfpsim.mapping.fit import check
from bfpsim.mapping.models import stored
from bfpsim.mapping.nest import DIMS, Mapping, MappingError, Nest, make_nest
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer


def legal_nests(
    layer: ConvLayer, arch: Arch, formats: LayerFormats
) -> Iterator[tuple[Mapping, Nest]]:
    """Each mapping of all tile sizes in all orders that is legal, with its nest."""
    kept = stored(layer, arch)
    for sizes in product(*(range(1, kept.dims[d] + 1) for d in DIMS)):
        tile = {d: size for d, size in zip(DIMS, sizes, strict=True) if size < kept.dims[d]}
        try:
            check(kept, arch, Mapping("".join(tile), tile), formats)
        except MappingError:
            continue  # legality does not depend on the order
        for order in permutations(tile):
            mapping = Mapping("".join(order), tile)
            yield mapping, make_nest(kept, mapping)
