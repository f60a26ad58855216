"""Transposed convolutions as phases, against torch's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import NetworkBuilder, WorkloadError, phases


@st.composite
def transposed(draw):
    groups = draw(st.integers(1, 3))
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    kernel = (draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    return {
        "shape": (draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 5)),
                  groups * draw(st.integers(1, 3))),
        "out_channels": groups * draw(st.integers(1, 3)),
        "kernel": kernel,
        "stride": stride,
        "padding": (draw(st.integers(0, kernel[0])), draw(st.integers(0, kernel[1]))),
        "output_padding": tuple(draw(st.integers(0, step - 1)) for step in stride),
        "groups": groups,
    }  # fmt: skip


def by_phases(case, inputs, weight):
    """The transposed convolution computed phase by phase, each by torch's ordinary one."""
    parts, shape = phases("up", case["shape"], case["out_channels"], *geometry(case))
    N, rows, cols, channels = shape
    groups = case["groups"]
    result = np.zeros((N, groups, channels // groups, rows, cols))
    for phase in parts:
        layer = phase.layer
        top, bottom, left, right = phase.crop or (0, inputs.shape[2], 0, inputs.shape[3])
        cut = torch.from_numpy(inputs[:, :, top:bottom, left:right])
        above, below, before, after = layer.paddings
        padded = F.pad(cut, (before, after, above, below))
        out = F.conv2d(padded, torch.from_numpy(phase.weight(weight)), groups=layer.G).numpy()
        out = out.reshape(N, groups, len(phase.offsets), -1, layer.P, layer.Q)
        for index, (r, c) in enumerate(phase.offsets):
            result[:, :, :, r :: phase.stride[0], c :: phase.stride[1]] = out[:, :, index]
    return parts, result.reshape(N, channels, rows, cols)


def geometry(case):
    return case["kernel"], case["stride"], case["padding"], case["output_padding"], case["groups"]


@settings(max_examples=300, deadline=None)
@given(case=transposed(), seed=st.integers(0, 2**31))
def test_the_phases_compute_what_torch_computes(case, seed):
    N, H, W, channels = case["shape"]
    extents = [
        (extent - 1) * s - 2 * p + k + o
        for extent, s, p, k, o in zip(
            (H, W), case["stride"], case["padding"], case["kernel"], case["output_padding"],
            strict=True,
        )
    ]  # fmt: skip
    if min(extents) < 1:
        with pytest.raises(WorkloadError, match="must be at least 1 x 1"):
            phases("up", case["shape"], case["out_channels"], *geometry(case))
        return
    generator = np.random.default_rng(seed)
    inputs = generator.integers(-9, 10, (N, channels, H, W)).astype(np.float64)
    filters = case["out_channels"] // case["groups"]
    weight = generator.integers(-9, 10, (channels, filters, *case["kernel"])).astype(np.float64)
    expected = F.conv_transpose2d(
        torch.from_numpy(inputs), torch.from_numpy(weight), stride=case["stride"],
        padding=case["padding"], output_padding=case["output_padding"], groups=case["groups"],
    ).numpy()  # fmt: skip
    parts, result = by_phases(case, inputs, weight)
    np.testing.assert_array_equal(result, expected)
    # No tap is multiplied that no output needs: each of an output's taps once.
    taps = sum(
        len(range((o + case["padding"][0]) % case["stride"][0], case["kernel"][0],
                  case["stride"][0]))
        * len(range((q + case["padding"][1]) % case["stride"][1], case["kernel"][1],
                    case["stride"][1]))
        for o in range(extents[0])
        for q in range(extents[1])
    )  # fmt: skip
    macs = sum(phase.layer.macs for phase in parts)
    assert macs <= N * taps * filters * channels
    remainders = min(extents[0], case["stride"][0]) * min(extents[1], case["stride"][1])
    if sum(len(phase.offsets) for phase in parts) == remainders:  # no window lies outside the input
        assert macs == N * taps * filters * channels


def test_kernel_equal_to_stride_is_one_pointwise_layer():
    build = NetworkBuilder("up", (1, 80, 80, 64))
    last = build.transposed("proto.upsample", "input", 64, 2, stride=2)
    network = build.network()
    (layer,) = network.layers
    assert (layer.name, layer.K, layer.C, layer.P, layer.R) == ("proto.upsample", 256, 64, 80, 1)
    # torch multiplies every input by every tap: 80 x 80 x 64 x 64 x 2 x 2.
    assert network.macs == 80 * 80 * 64 * 64 * 4
    assert network.shape(last) == (1, 160, 160, 64)
    assert [node.op for node in network.nodes] == ["input", "transposed", "host"]


def test_each_phase_of_an_overlapping_kernel_is_a_layer_of_its_own():
    build = NetworkBuilder("up", (2, 8, 8, 6))
    build.transposed("up", "input", 4, 4, stride=2, padding=1, groups=2)
    network = build.network()
    assert [layer.name for layer in network.layers] == [f"up.phase{i}" for i in range(4)]
    assert {layer.paddings for layer in network.layers} == {
        (1, 0, 1, 0), (1, 0, 0, 1), (0, 1, 1, 0), (0, 1, 0, 1),
    }  # fmt: skip
    assert network.shape("up.interleave") == (2, 16, 16, 4)
    assert network.macs == 2 * 16 * 16 * 4 * 3 * 2 * 2  # a quarter of 4 x 4 taps for each output


def test_input_that_a_phase_does_not_reach_is_cropped():
    build = NetworkBuilder("up", (1, 4, 4, 3))
    build.transposed("up", "input", 3, 2, stride=2, padding=1)
    network = build.network()
    crops = [node for node in network.nodes if node.function == "crop"]
    assert {node.output_shape for node in crops} == {(1, 3, 3, 3)}
    assert network.shape("up.interleave") == (1, 6, 6, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3, 2), "layer 'up': out_channels=0 must be an int >= 1"),
        ((4, 3, 0), "layer 'up': stride=0 must be an int >= 1"),
        ((4, 3, 2, 9), "output of -13 x -13 must be at least 1 x 1"),
        ((4, 3, 2, 0, 0, 4), "groups=4 must divide the 6 channels in"),
        ((5, 3, 2, 0, 0, 2), "groups=2 must divide the 5 out_channels"),
    ],
)
def test_bad_sizes_are_named(arguments, message):
    with pytest.raises(WorkloadError, match=message):
        phases("up", (1, 2, 2, 6), *arguments)
