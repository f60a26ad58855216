"""Random networks of every operation, under names of every character."""

import random
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from bfpsim.workloads import Network, NetworkBuilder, Node, WorkloadError

_FUNCTIONS = (
    "softmax", "layer norm", "a,b;c", "null", " ", "gelu", "mul", "layer_norm", "split", "tokens",
    "add_parameter", "upsample", "group_norm",
)  # fmt: skip
_SOURCES = ("", "", "", "published code", "1x2", " x ")


def random_network(rng: random.Random, names: Sequence[str]) -> Network:
    """A network of at most as many nodes as there are names, which are given to them in order."""
    build = NetworkBuilder("random", _shape(rng))
    nodes = ["input"]
    if rng.random() < 0.5:
        nodes.append(build.input("input2", _shape(rng)))
    for index in range(len(names)):
        try:
            nodes.append(_append(rng, build, f"n{index}", nodes))
        except WorkloadError:
            continue  # what does not fit: another is tried
    made = build.network().nodes[: len(names)]
    given = dict(zip((node.name for node in made), names, strict=False))
    return Network(names[-1], tuple(_renamed(node, given, rng.choice(_SOURCES)) for node in made))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    shown = st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])
    text = st.text(shown, min_size=1, max_size=8).filter(str.strip)
    plain = st.sampled_from(["conv1", "layer1.0.conv", "/a/b_1", "null", "1", "true", "1x2", "-"])
    names = draw(st.lists(text | plain, unique=True, min_size=1, max_size=12))
    return random_network(draw(st.randoms(use_true_random=False)), names)


def _shape(rng: random.Random) -> tuple[int, int, int, int]:
    if rng.random() < 0.3:
        return 2, 1, rng.randint(1, 9), rng.choice([2, 4, 6])
    return rng.randint(1, 2), rng.randint(1, 9), rng.randint(1, 9), rng.choice([1, 2, 4, 6])


def _append(rng: random.Random, build: NetworkBuilder, name: str, nodes: list[str]) -> str:
    x, y = rng.choice(nodes), rng.choice(nodes)
    N, H, W, C = build.shape(x)
    two = lambda low, high: (rng.randint(low, high), rng.randint(low, high))  # noqa: E731
    groups = rng.choice([g for g in (1, 1, 2, 3, C) if C % g == 0])
    match rng.randrange(12):
        case 0 | 1:
            sides = tuple(rng.randint(0, 2) for _ in range(4))
            padding = rng.choice([0, 1, (0, 1), sides])
            return build.conv(
                *(name, x, groups * rng.randint(1, 5), two(1, 3)),
                stride=two(1, 3),
                padding=padding,
                dilation=two(1, 2),
                groups=groups,
            )
        case 2:
            step, gap = rng.randint(1, 2), rng.randint(1, 2)
            return build.conv1d(
                name, x, groups * 2, 3, stride=step, padding=1, dilation=gap, groups=groups
            )
        case 3:
            return build.linear(name, x, rng.randint(1, 9))
        case 4:
            heads = rng.choice([1, 2, C])
            right = build.host(f"{name}.right", "permute", y, shape=(N, 1, rng.randint(1, 5), C))
            columns = build.shape(right)[2]
            return build.matmul(name, x, right, columns, heads=heads)
        case 5:
            stride, kernel = two(1, 3), two(1, 4)
            return build.transposed(name, x, 2, kernel, stride=stride, padding=rng.randint(0, 1))
        case 6:
            return build.relu(name, x)
        case 7:
            return build.add(name, x, *[x, y][: rng.randint(1, 2)])
        case 8:
            return build.concat(name, x, y)
        case 9:
            kernel = two(1, 3)
            padding = (rng.randint(0, kernel[0] // 2), rng.randint(0, kernel[1] // 2))
            return build.maxpool(
                name, x, kernel, stride=two(1, 3), padding=padding, ceil=rng.random() < 0.5
            )
        case 10:
            return build.avgpool(name, x)
        case _:
            shape = rng.choice([None, (N, 1, H * W, C), (N * 3, H, W, C)])
            sources = [x, y][: rng.randint(0 if shape else 1, 2)]
            macs = rng.choice([0, 10**12])
            return build.host(name, rng.choice(_FUNCTIONS), *sources, shape=shape, macs=macs)


def _renamed(node: Node, given: dict[str, str], source: str) -> Node:
    name, inputs = given[node.name], tuple(given[name] for name in node.inputs)
    layer = None if node.layer is None else replace(node.layer, name=name)
    return replace(node, name=name, inputs=inputs, layer=layer, unverified=source)
