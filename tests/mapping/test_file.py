"""Files of mappings: what is written is read back equal, and nothing else is let in."""

import random
from pathlib import Path

import pytest

from bfpsim.arch import Arch, load_arch
from bfpsim.mapping.file import load_mappings, save_mappings
from bfpsim.mapping.nest import EVERY_DIM, Mapping, MappingError
from bfpsim.workloads import ConvLayer, Network, Node
from tests.generate import random_layer
from tests.long import often

NAMES = (
    *("conv1", "layer1.0/conv-2", "1", "no", "~", "a: b", "#x", "{x}", "[y]", "&z", "*z", "!t"),
    *("'", '"', "", " ", "\n", "\x85", "\u2028", "\ufeff", "é", "层", "\U0001f600", "- a", "? b"),
    *("<<", "x" * 300, "%YAML", "---", "...", "null", "1e3", "a\tb", "\\", "order"),
)
LEVELS = ("acc", "weight_buffer-2", "null")


def machine(levels: tuple[str, ...]) -> Arch:
    """ideal-64k with levels inside its SRAM."""
    spec = load_arch("ideal-64k").model_dump()
    spec["levels"] = [
        {"name": name, "tensors": ["W"], "capacity": "16 KiB", "width": "128 bit"}
        for name in levels
    ]
    return Arch.model_validate(spec)


def network_of(*layers: ConvLayer) -> Network:
    nodes = []
    for layer in layers:
        source = Node(f"input of {layer.name}", "input", input_shape=layer.input_shape)
        nodes += [source, Node(layer.name, "conv", (source.name,), layer=layer)]
    return Network("net", tuple(nodes))


def random_cut(rng: random.Random, size: dict[str, int], dims: str) -> tuple[str, dict[str, int]]:
    """An order of some dimensions that holds all that are cut; `size` shrinks to the tile."""
    cut = {d: rng.randint(1, size[d]) for d in rng.sample(dims, rng.randint(0, len(dims)))}
    loops = [d for d in dims if d in cut or rng.random() < 0.3]
    rng.shuffle(loops)
    size |= cut
    return "".join(loops), cut


@pytest.mark.parametrize("seed", range(60))
def test_what_is_written_is_read_back(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    levels = LEVELS[: rng.randint(0, 3)]
    names = [name for name in rng.sample(NAMES, 12) if name.strip() and name.isprintable()]
    layers = [ConvLayer(**(vars_of(random_layer(rng)) | {"name": name})) for name in names]
    mappings = {}
    for layer in layers:
        size = layer.dims
        order, tile = random_cut(rng, size, "NGKCPQ")
        inner = {
            level: Mapping(*random_cut(rng, size, EVERY_DIM))
            for level in levels
            if rng.random() < 0.7
        }
        mappings[layer.name] = Mapping(order, tile, inner)
    path = tmp_path / "m.yaml"
    save_mappings(path, mappings, rng.choice(NAMES))
    read = load_mappings(path, network_of(*layers), machine(levels))
    assert read == mappings
    assert list(read) == list(mappings)
    again = tmp_path / "again.yaml"
    save_mappings(again, read, rng.choice(NAMES))
    assert without_comments(again) == without_comments(path)


def vars_of(layer: ConvLayer) -> dict[str, object]:
    return {name: getattr(layer, name) for name in layer.__dataclass_fields__}


def without_comments(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").split("\n") if not line.startswith("# ")]


CONV = ConvLayer("conv", K=8, C=6, P=5, Q=4, R=3, S=3, padding=1)
FC = ConvLayer("fc", K=10, C=8, P=1, Q=1)


def load(tmp_path: Path, text: str | bytes) -> dict[str, Mapping]:
    path = tmp_path / "m.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_mappings(path, network_of(CONV, FC), machine(("acc",)))


def test_a_file_by_hand(tmp_path: Path) -> None:
    text = """
    conv:
      order: KPC   # C is whole: it has no loop
      tile:
        K: 4
        P: 2
      inner:
        acc: {order: RK, tile: {R: 1, K: 2}}
    "fc": {}
    """
    assert load(tmp_path, text) == {
        "conv": Mapping("KPC", {"K": 4, "P": 2}, {"acc": Mapping("RK", {"R": 1, "K": 2})}),
        "fc": Mapping(),
    }


def test_some_layers_are_enough_where_only_they_run(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    save_mappings(path, {"fc": Mapping("K", {"K": 2})})
    network = network_of(CONV, FC)
    with pytest.raises(MappingError, match=r"m\.yaml: lacks conv; allowed: a mapping of every"):
        load_mappings(path, network, machine(()))
    read = load_mappings(path, network, machine(()), ["fc"])
    assert read == {"fc": Mapping("K", {"K": 2})}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": is empty; allowed: layers"),
        ("# nothing", ": is empty; allowed: layers"),
        ("~", ":1: '~' is refused; allowed: layers"),
        ("[conv, fc]", ":1: a list is refused; allowed: keys and values"),
        ("conv: {}", ": lacks fc; allowed: a mapping of every layer of net that is to run"),
        (
            "conv: {}\ncon: {}",
            ":2: 'con' is no layer of net (did you mean 'conv'?); allowed: conv, fc",
        ),
        ("conv: {}\nxyz: {}", ":2: 'xyz' is no layer of net; allowed: conv, fc"),
        ("conv: {}\nconv: {}", ":2: 'conv' stands twice; allowed: once"),
        ("conv:", ":1: conv: nothing is refused; allowed: order, tile, inner; {} cuts nothing"),
        ("conv: K", ":1: conv: 'K' is refused; allowed: order, tile, inner; {} cuts nothing"),
        (
            "conv:\n  tiles: {K: 4}",
            ":2: conv: unknown key 'tiles'; allowed keys: order, tile, inner",
        ),
        (
            "conv: {<<: {order: K}}",
            ":1: conv: unknown key '<<'; allowed keys: order, tile, inner",
        ),
        (
            "conv:\n  order: {K: 1}",
            ":2: conv.order: a part with keys of its own is refused; allowed: N, G, K,",
        ),
        (
            "conv: {order: KX}",
            ":1: conv.order: 'KX' is refused; allowed: N, G, K, C, P, Q, R, S, each once",
        ),
        ("conv:\n  order: KK", ":1: conv: order='KK' repeats a dimension; allowed: each once"),
        ("conv: {tile: 4}", ":1: conv.tile: '4' is refused; allowed: sizes such as {K: 16, P: 1}"),
        (
            "conv:\n  order: K\n  tile:\n    K: four",
            ":4: conv.tile.K: 'four' is refused; allowed: a whole number from 1",
        ),
        ("conv: {tile: {K: 0}}", ":1: conv.tile.K: '0' is refused; allowed: a whole number from 1"),
        ("conv: {tile: {K: -1}}", ":1: conv.tile.K: '-1' is refused; allowed: a whole number"),
        ("conv: {tile: {K: 2.0}}", ":1: conv.tile.K: '2.0' is refused; allowed: a whole number"),
        ("conv: {tile: {K: 0x4}}", ":1: conv.tile.K: '0x4' is refused; allowed: a whole number"),
        ("conv: {tile: {K: ٣}}", ":1: conv.tile.K: '٣' is refused; allowed: a whole number"),
        (
            "conv: {tile: {K: {}}}",
            ":1: conv.tile.K: a part with keys of its own is refused; allowed:",
        ),
        (
            "conv: {tile: {K: }}",
            ":1: conv.tile.K: nothing is refused; allowed: a whole number from 1",
        ),
        (
            "conv: {tile: {Z: 1}}",
            ":1: conv.tile: unknown dimension 'Z'; allowed: N, G, K, C, P, Q, R,",
        ),
        ("conv: {order: K, tile: {K: 9}}", ":1: conv: tile K=9; allowed: 1..8"),
        ("conv: {order: R, tile: {R: 1}}", ":1: conv: R: R1 names dimension 'R'; allowed: N, G,"),
        ("fc: {}\nconv: {tile: {K: 4}}", ":2: conv: order='' lacks K, which has 2 tiles; allowed:"),
        (
            'conv: {tile: {"": 1}}',
            ":1: conv.tile: unknown dimension ''; allowed: N, G, K, C, P, Q,",
        ),
        ("conv: {tile: {NG: 1}}", ":1: conv.tile: unknown dimension 'NG'; allowed: N, G, K, C, P"),
        (
            'conv: {inner: {"a\\nb": {tile: {}}}}',
            ":1: conv.inner: unknown level 'a\\nb'; allowed: acc",
        ),
        ("conv: {inner: [acc]}", ":1: a list is refused; allowed: keys and values"),
        ("conv: {inner: acc}", ":1: conv.inner: 'acc' is refused; allowed: names of levels"),
        ("conv: {inner: {reg: {}}}", ":1: conv.inner: unknown level 'reg'; allowed: acc"),
        (
            "conv: {inner: {acc: {inner: {}}}}",
            ":1: conv.inner.acc: unknown key 'inner'; allowed keys: order, tile",
        ),
        (
            "conv: {order: K, tile: {K: 4}, inner: {acc: {order: K, tile: {K: 8}}}}",
            ":1: conv, acc: tile K=8; allowed: 1..4",
        ),
        ("conv: &a {}\nfc: *a", ":1: anchor or alias 'a'; allowed: the value written out"),
        ("conv: !!map {}", ":1: tag 'tag:yaml.org,2002:map'; allowed: the value without a tag"),
        ("conv: !!python/object:os.system x", ":1: tag "),
        ("conv: {}\n--- \nfc: {}", ":2: a second document is refused; allowed: one"),
        ("{a: " * 9 + "1" + "}" * 9, ":1: nested too deep; allowed: at most 8 levels"),
        ("? {a: b}\n: c", ":1: a key is no text; allowed: text"),
        ("conv: {order: K", ":1: is not valid YAML: "),
        ("conv: \x01", ": is not valid YAML: "),
        (b"conv: \xff", ": byte 0xff at offset 6 is not UTF-8; allowed: UTF-8 text"),
        ("#" * (1 << 20) + "\n", ": is too long; allowed: at most 1048576 bytes"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, text: str | bytes, message) -> None:
    with pytest.raises(MappingError) as error:
        load(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'm.yaml'}{message}")
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none.yaml", "No such file or directory"),
        (tmp_path, "it is a folder"),
        ("a\0b", "embedded null byte"),
    ):
        with pytest.raises(MappingError, match=rf"cannot be read: {reason}; allowed: a YAML file"):
            load_mappings(path, network_of(FC), machine(()))


@pytest.mark.parametrize("seed", often(10, range(40)))
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    text = bytearray(b"conv: {order: KP, tile: {K: 4, P: 1}, inner: {acc: {order: Q}}}\nfc: {}\n")
    for _ in range(25):
        damaged = bytearray(text)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(damaged))
            if rng.random() < 0.3:
                del damaged[place]
            else:
                damaged[place] = rng.choice(b"{}[]:,&*!|>'\"%@`#-? \n\tKP019\xc3")
        try:
            load(tmp_path, bytes(damaged))
        except MappingError as error:
            assert "\n" not in str(error)  # noqa: PT017
