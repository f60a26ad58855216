import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.workloads import NetworkBuilder
from bfpsim.workloads.networks.deformable import deformable_attention, encoder_layer
from tests.workloads.networks.reference import Deformable, layers_in_torch, layers_of, macs_of


def attend(queries: int, keys: int, width: int, inner: int | None, **counts: int):
    build = NetworkBuilder("deformable", (1, queries, 1, width))
    memory = build.input("memory", (1, keys, 1, width))
    boxes = build.input("boxes", (1, queries, 1, 4))
    deformable_attention(build, "x", "input", memory, boxes, channels=inner, **counts)
    return build.network()


@given(
    queries=st.integers(1, 50),
    keys=st.integers(1, 50),
    heads=st.integers(1, 4),
    levels=st.integers(1, 5),
    points=st.integers(1, 4),
    head=st.integers(1, 8),
    narrow=st.booleans(),
)
@settings(deadline=None)
def test_layers_are_those_torch_runs_and_sampling_is_counted(
    queries, keys, heads, levels, points, head, narrow
):
    width = 2 * heads * head
    inner = width // 2 if narrow else width
    ours = attend(
        queries,
        keys,
        width,
        inner if narrow else None,
        heads=heads,
        levels=levels,
        points=points,
    )
    with torch.device("meta"):
        module = Deformable(width, heads, levels, points, inner)
        tensors = torch.empty(1, queries, width), torch.empty(1, keys, width)
    assert layers_of(ours) == layers_in_torch(module, *tensors)
    # One by one: each sample of each head reads 4 neighbours and is weighted, channel by channel.
    counted = sum(
        (4 + 1) * (inner // heads)
        for _query in range(queries)
        for _head in range(heads)
        for _level in range(levels)
        for _point in range(points)
    )
    assert ours.host_macs == counted
    assert ours.batched(3).host_macs == 3 * counted
    assert ours.batched(3).macs == 3 * ours.macs


def test_sampling_reads_values_offsets_weights_and_boxes():
    ours = attend(3, 7, 8, None, heads=2, levels=2, points=2)
    read = {name: [n.name for n in nodes] for name, nodes in ours.producers.items()}
    assert read["x.sampling"] == ["x.value", "x.offsets", "x.softmax", "boxes"]
    assert read["x.value"] == ["memory"]
    assert read["x.offsets"] == read["x.weights"] == ["input"]


def test_an_encoder_layer_adds_its_own_input():
    build = NetworkBuilder("encoder", (1, 10, 1, 16))
    encoder_layer(build, "e", "input", heads=2, levels=2, points=4, hidden=40)
    read = {name: [n.name for n in nodes] for name, nodes in build.network().producers.items()}
    # Where to look depends on the position, what is seen does not.
    assert read["e.attention.value"] == ["input"]
    assert read["e.attention.offsets"] == ["e.position"]
    assert read["e.attended.add"] == ["input", "e.attention.out"]
    assert read["e.encoded.add"] == ["e.attended.norm", "e.mlp.1"]


def test_macs_of_an_encoder_layer_as_transformers_counts_them():
    """transformers 5.23.0, Mask2FormerPixelDecoderEncoderLayer over 80x80, 40x40, 20x20 tokens.

    Sums over its linear layers: values, offsets, weights, output, and both of the perceptron.
    """
    tokens = 80 * 80 + 40 * 40 + 20 * 20
    build = NetworkBuilder("encoder", (1, tokens, 1, 256))
    encoder_layer(build, "e", "input", heads=8, levels=3, points=4, hidden=1024)
    ours = build.network()
    counted = {
        "e.attention.value": 550_502_400,
        "e.attention.offsets": 412_876_800,
        "e.attention.weights": 206_438_400,
        "e.attention.out": 550_502_400,
        "e.mlp.0": 2_202_009_600,
        "e.mlp.1": 2_202_009_600,
    }
    assert {layer.name: layer.macs for layer in ours.layers} == counted
    assert macs_of(ours, "linear") == ours.macs
