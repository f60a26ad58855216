import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import ConvLayer, WorkloadError


def torch_conv_shape(layer: ConvLayer, H: int, W: int) -> tuple[int, ...]:
    """The output shape, NHWC, that torch gives the layer on an H x W input."""
    top, bottom, left, right = layer.paddings
    images = torch.empty(layer.N, layer.G * layer.C, H, W, device="meta")
    weight = torch.empty(layer.weight_shape, device="meta")
    padded = F.pad(images, (left, right, top, bottom))
    out = F.conv2d(padded, weight, stride=layer.strides, dilation=layer.dilations, groups=layer.G)
    return tuple(out.permute(0, 2, 3, 1).shape)


small = st.integers(1, 4)


@settings(deadline=None)  # the first call into torch is slow
@given(
    shape=st.tuples(small, st.integers(1, 20), st.integers(1, 20)),
    groups=small,
    C=small,
    K=small,
    kernel=st.tuples(small, small),
    stride=st.tuples(small, small),
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    dilation=st.tuples(small, small),
)
def test_layer_on_an_input_has_the_shapes_torch_gives(
    shape, groups, C, K, kernel, stride, padding, dilation
):
    N, H, W = shape
    try:
        layer = ConvLayer.on_input(
            "conv",
            (N, H, W, groups * C),
            groups * K,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )
    except WorkloadError:
        # Refused exactly when torch has no output either.
        with pytest.raises(RuntimeError, match="Kernel size"):
            F.conv2d(
                F.pad(torch.empty(N, groups * C, H, W), (*padding[2:], *padding[:2])),
                torch.empty(groups * K, C, *kernel),
                stride=stride,
                dilation=dilation,
                groups=groups,
            )
        return
    assert layer.input_shape == (N, H, W, groups * C)
    assert layer.output_shape == torch_conv_shape(layer, H, W)
    per_output = np.prod(layer.weight_shape[1:])
    assert layer.macs == np.prod(layer.output_shape) * per_output


@settings(deadline=None)  # the first call into torch is slow
@given(
    P=st.integers(1, 9),
    Q=st.integers(1, 9),
    R=small,
    S=small,
    stride=st.tuples(small, small),
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    dilation=st.tuples(small, small),
)
def test_derived_input_is_the_least_that_gives_the_outputs(P, Q, R, S, stride, padding, dilation):
    assume(2 * padding[0] < R and 2 * padding[1] < S)
    layer = ConvLayer("conv", 2, 3, P, Q, R, S, stride=stride, padding=padding, dilation=dilation)
    assert torch_conv_shape(layer, layer.height, layer.width) == (1, P, Q, 2)
    if layer.height > 1 and P > 1:
        assert torch_conv_shape(layer, layer.height - 1, layer.width)[1] < P
    if layer.width > 1 and Q > 1:
        assert torch_conv_shape(layer, layer.height, layer.width - 1)[2] < Q


def test_stride_two_leaves_the_stored_input_open():
    derived = ConvLayer("down", K=8, C=4, P=28, Q=28, stride=2)
    assert derived.input_shape == (1, 55, 55, 4)
    given_56 = ConvLayer("down", K=8, C=4, P=28, Q=28, stride=2, H=56, W=56)
    assert given_56.input_shape == (1, 56, 56, 4)
    assert derived != given_56


def test_every_spelling_of_a_layer_is_the_same_layer():
    sizes = {"K": 8, "C": 4, "P": 6, "Q": 6, "R": 3, "S": 3}
    spellings = [
        ConvLayer("conv", **sizes, stride=2, padding=1, dilation=1),
        ConvLayer("conv", **sizes, stride=(2, 2), padding=(1, 1), H=11, W=11),
        ConvLayer("conv", **sizes, stride=[2, 2], padding=[1, 1, 1, 1], dilation=(1, 1)),
        ConvLayer("conv", **sizes | {"K": np.int64(8)}, stride=2, padding=1),
    ]
    assert len(set(spellings)) == 1
    assert pickle.loads(pickle.dumps(spellings[0])) == spellings[0]
    assert spellings[0].strides == (2, 2)
    assert spellings[0].paddings == (1, 1, 1, 1)
    assert spellings[0].dilations == (1, 1)
    assert type(spellings[3].K) is int


def test_linear_and_depthwise_are_convolutions():
    fc = ConvLayer.linear("fc", in_features=512, out_features=1000, N=4)
    assert fc.macs == 4 * 512 * 1000
    assert (fc.input_shape, fc.output_shape) == ((4, 1, 1, 512), (4, 1, 1, 1000))
    assert not fc.depthwise
    dw = ConvLayer.depthwise_conv("dw", 32, 14, 14, 3, 3, stride=2, padding=1, H=28, W=28)
    assert dw.macs == 32 * 14 * 14 * 9
    assert (dw.weight_shape, dw.output_shape) == ((32, 1, 3, 3), (1, 14, 14, 32))
    assert dw.depthwise
    assert not ConvLayer("grey", K=16, C=1, P=28, Q=28, R=3, S=3).depthwise
    assert dw.dims == {"N": 1, "G": 32, "K": 1, "C": 1, "P": 14, "Q": 14, "R": 3, "S": 3}


def test_batched_changes_the_batch_alone():
    layer = ConvLayer("conv", K=8, C=4, P=6, Q=6, R=3, S=3, stride=2, padding=1, H=12, W=12)
    batched = layer.batched(5)
    assert batched.input_shape == (5, 12, 12, 4)
    assert batched.macs == 5 * layer.macs
    assert batched.batched(1) == layer
    with pytest.raises(WorkloadError, match="N=0 must be an int >= 1"):
        layer.batched(0)


GOOD = {"name": "conv", "K": 8, "C": 4, "P": 6, "Q": 6, "R": 3, "S": 3}


@pytest.mark.parametrize("field", ["N", "G", "K", "C", "P", "Q", "R", "S", "H", "W"])
@pytest.mark.parametrize("value", [0, -1, True, 2.0, "3", (1, 2)])
def test_a_size_must_be_a_positive_int(field, value):
    with pytest.raises(WorkloadError) as caught:
        ConvLayer(**GOOD | {field: value})
    assert str(caught.value) == f"layer 'conv': {field}={value!r} must be an int >= 1"


@pytest.mark.parametrize("field", ["stride", "dilation"])
@pytest.mark.parametrize("value", [0, (1, 0), (1, 2, 3), 1.5, (1, True), None, "2"])
def test_stride_and_dilation_must_be_positive(field, value):
    with pytest.raises(WorkloadError, match=rf"layer 'conv': {field}=.* must be an int"):
        ConvLayer(**GOOD, **{field: value})


@pytest.mark.parametrize("value", [-1, (0, -1), (1, 2, 3), (0, 0, 0, -1), (0, 0, 0, 0, 0), 0.5])
def test_padding_must_not_be_negative(value):
    with pytest.raises(WorkloadError, match=r"layer 'conv': padding=.* must be an int"):
        ConvLayer(**GOOD, padding=value)


@pytest.mark.parametrize("name", ["", "  ", None, 3])
def test_a_layer_must_have_a_name(name):
    with pytest.raises(WorkloadError, match="name must be a non-empty string"):
        ConvLayer(**GOOD | {"name": name})


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\x9b", "\u202eb", "a\u2028", "\ud800"])
def test_a_name_must_not_act_on_a_terminal(name):
    with pytest.raises(WorkloadError, match="holds the control character") as caught:
        ConvLayer(**GOOD | {"name": name})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"N": 2**27 + 1},
        {"K": 2**21, "C": 2**21},
        {"N": 2**27, "K": 2**16, "C": 1},
        {"R": 2**17, "padding": (2**17 - 1, 0, 0, 0)},
        {"N": 2**20, "K": 2**20, "C": 2**17},
    ],
)
def test_sizes_that_cannot_be_counted_are_refused(change):
    with pytest.raises(WorkloadError, match=r"layer 'conv': .*; allowed: at most") as caught:
        ConvLayer(**GOOD | {"P": 1, "Q": 1, "H": None, "W": None} | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"H": 9}, "layer 'conv': P=6 must be 7, which H=9, R=3, stride 1"),
        ({"W": 7}, "layer 'conv': Q=6 must be 5, which W=7, S=3, stride 1"),
        ({"H": 2}, "layer 'conv': H=2 must be at least 3: .* it must hold the kernel R=3"),
        ({"W": 1, "dilation": 2, "padding": 1}, "layer 'conv': W=1 must be at least 3"),
        # One row of output cannot be had from an input that two rows of padding surround.
        ({"R": 1, "P": 1, "padding": (1, 0)}, "layer 'conv': P=1 must be 3, which H=1"),
    ],
)
def test_an_input_that_does_not_give_the_outputs_is_refused(change, message):
    with pytest.raises(WorkloadError, match=message):
        ConvLayer(**GOOD | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 3}, "groups=3 must divide out_channels=8"),
        ({"groups": 8}, "groups=8 must divide the 4 channels in"),
        ({"groups": 0}, "groups=0 must be an int >= 1"),
        ({"kernel": 0}, "kernel=0 must be an int >= 1"),
        ({"kernel": 9}, "H=6 must be at least 9"),
    ],
)
def test_on_input_names_what_does_not_fit(change, message):
    arguments = {"out_channels": 8, "kernel": 3} | change
    with pytest.raises(WorkloadError, match=f"layer 'conv': {message}"):
        ConvLayer.on_input("conv", (1, 6, 6, 4), **arguments)
