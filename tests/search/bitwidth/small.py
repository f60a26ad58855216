"""Small networks, architectures and losses, whose whole search space can be walked."""

import random
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.mapper import best_mappings
from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.objective import Objective
from bfpsim.quant.formats import BFP
from bfpsim.search.bitwidth.problem import Problem
from bfpsim.search.bitwidth.space import Space
from bfpsim.workloads import Network, NetworkBuilder
from tests.generate import make_arch, tight

FORMATS = (BFP(8, 2, 1), BFP(8, 4, 2), BFP(8, 6, 4))


def block_network() -> Network:
    """A residual block whose add ties three tensors, and a linear layer behind it."""
    build = NetworkBuilder("block", (1, 5, 5, 4))
    x = build.conv("stem", "input", 8, (3, 3), padding=1)
    y = build.conv("inner", x, 8, (3, 3), padding=1)
    y = build.conv("outer", build.relu("relu", y), 8, (1, 1))
    y = build.add("add", y, x)
    build.linear("head", build.avgpool("pool", y), 6)
    return build.network()


def chain_network() -> Network:
    """Two layers."""
    build = NetworkBuilder("chain", (1, 4, 4, 3))
    x = build.conv("first", "input", 6, (3, 3), padding=1)
    build.conv("second", x, 5, (1, 1))
    return build.network()


def small_arch(bits: int = 4000, burst: str = "32 bit") -> Arch:
    """A shared buffer of so many bits."""
    return tight(make_arch(burst=burst), bits)


def random_losses(space: Space, seed: int, scale: float = 0.05) -> NDArray[np.float64]:
    """Losses that grow as formats get cheaper, unevenly."""
    rng = np.random.default_rng(seed)
    noise = np.array([4.0**-f.mantissa_bits * f.block_size for f in space.formats])
    return scale * noise / noise.max() * rng.uniform(0.2, 2, (len(space.tensors), len(noise)))


def every_choice(problem: Problem) -> list[tuple[int, ...]]:
    """All of them."""
    return list(product(*(range(len(own)) for own in problem.candidates)))


def brute_force(
    space: Space, arch: Arch, losses: NDArray[np.float64], alpha: float, scale: float,
    objective: Objective, model: str,
) -> float:  # fmt: skip
    """The least value of Eq. 1: every choice of formats, each layer asked of the mapper."""
    known: dict[object, float] = {}

    def cost(kind: int, formats: tuple[int, ...]) -> float:
        if (kind, formats) not in known:
            try:
                (found,) = best_mappings(
                    space.kinds[kind], arch, space.formats_at(formats), 1, objective, model
                )
                known[kind, formats] = found.cost
            except MappingError:
                known[kind, formats] = float("inf")
        return known[kind, formats]

    best = float("inf")
    for choice in product(range(len(space.formats)), repeat=len(space.tensors)):
        total = sum(cost(p.kind, p.places(choice)) * p.repeats for p in space.products)
        loss = sum(losses[t, f] for t, f in enumerate(choice))
        best = min(best, loss + alpha * total / scale)
    return best


def random_problem(rng: random.Random) -> Problem:
    """Layers of three tensors each, some shared, some twice in a layer, some costs infinite."""
    from bfpsim.search.bitwidth.problem import LayerCosts

    tensors = rng.randint(3, 6)
    sizes = [rng.randint(1, 3) for _ in range(tensors)]
    layers = []
    for number in range(rng.randint(1, 4)):
        own = tuple(rng.randrange(tensors) for _ in range(3))
        shape = tuple(sizes[t] for t in own)
        costs = np.array(
            [rng.choice([1.0, 2.0, 3.5, rng.random() * 9]) for _ in range(np.prod(shape))]
        )
        costs[[i for i in range(1, len(costs)) if rng.random() < 0.1]] = np.inf
        layers.append(LayerCosts(f"layer{number}", own, costs.reshape(shape)))
    used = {t for layer in layers for t in layer.tensors}
    losses = tuple(np.array([rng.choice([0.0, rng.random()]) for _ in range(n)]) for n in sizes)
    keep = sorted(used)
    number = {t: i for i, t in enumerate(keep)}
    layers = [LayerCosts(t.name, tuple(number[x] for x in t.tensors), t.costs) for t in layers]
    return Problem(
        tuple(tuple(range(sizes[t])) for t in keep), tuple(losses[t] for t in keep), tuple(layers)
    )
