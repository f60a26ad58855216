"""What a model computes and what it is imported as, on whole numbers: equal to the last bit."""

import random
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import Pool, WorkloadError
from bfpsim.workloads.importers.onnx.model import import_onnx
from bfpsim.workloads.transposed import phases
from tests.workloads.importers.onnx_models import Model, evaluate, execute, nhwc, whole


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def kinds(network):
    return [node.function or node.op for node in network.nodes]


def same_values(path, proto, feeds, host=None):
    """Import, execute, and compare with onnx's own evaluation; return what was imported."""
    onnx.save(proto, str(path))
    wanted = evaluate(proto, feeds)
    imported = import_onnx(path)
    found = execute(imported, {name: nhwc(value) for name, value in feeds.items()}, host)
    last = imported.network.nodes[-1]
    outputs = last.inputs if last.function == "outputs" else (last.name,)
    for name, value in zip(outputs, wanted, strict=True):
        np.testing.assert_array_equal(found[name], nhwc(value))
    return imported


class Grower:
    """Appends random operators to a model, and knows every tensor's shape by running it."""

    def __init__(self, rng, model, image):
        self.rng, self.model, self.feeds = rng, model, {"x": image}

    def shape(self, name):
        if name == "x":
            return self.feeds["x"].shape
        (output,) = self.model.proto(name).graph.output
        return tuple(dim.dim_value for dim in output.type.tensor_type.shape.dim)

    def grow(self, x, steps):
        for _ in range(steps):
            x = self.rng.choice(
                [self.convolution, self.convolution, self.relu, self.branch, self.joined, self.pool]
            )(x)
        return x

    def convolution(self, x):
        rng = self.rng
        _, channels, *extents = self.shape(x)
        groups = rng.choice([g for g in (1, 1, 2, channels) if channels % g == 0])
        filters = groups * rng.randint(1, 3)
        kernel = [rng.randint(1, 3) for _ in extents]
        attributes = {"strides": [rng.randint(1, 2) for _ in extents], "group": groups}
        auto = rng.choice(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
        dilations = [rng.randint(1, 2) for _ in extents]
        if auto != "VALID":
            attributes["dilations"] = dilations
        if auto == "NOTSET":
            spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
            before = [rng.randint(0, 2) for _ in extents]
            after = [
                max(rng.randint(0, 2), span - extent - b)
                for span, extent, b in zip(spans, extents, before, strict=True)
            ]
            attributes["pads"] = before + after
        elif auto == "VALID":
            kernel = [min(k, extent) for k, extent in zip(kernel, extents, strict=True)]
        inputs = [x, self.model.constant(whole(rng, filters, channels // groups, *kernel))]
        if rng.random() < 0.5:
            inputs.append(self.model.constant(whole(rng, filters)))
        if auto != "NOTSET" or rng.random() < 0.5:
            attributes["auto_pad"] = auto
        x = self.model.node("Conv", *inputs, **attributes)
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            x = self.scaled(x, filters)
        return x

    def scaled(self, x, filters):
        """Something that is folded, by powers of two: exact in float32."""
        rng, model = self.rng, self.model
        kind = rng.choice(["BatchNormalization", "Mul", "Add", "Sub", "Div"])
        powers = np.exp2([rng.randint(-1, 1) for _ in range(filters)])
        if kind == "BatchNormalization":
            epsilon = 2.0**-10
            variance = np.exp2([2 * rng.randint(-1, 1) for _ in range(filters)]) - epsilon
            parts = [powers, whole(rng, filters), whole(rng, filters), variance]
            return model.node(kind, x, *map(model.constant, parts), epsilon=epsilon)
        spatial = len(self.shape(x)) - 2
        shape = rng.choice([(filters, *[1] * spatial), (1, filters, *[1] * spatial)])
        constant = (powers if kind in ("Mul", "Div") else whole(rng, filters)).reshape(shape)
        operands = [x, model.constant(constant)]
        if kind in ("Mul", "Add") and rng.random() < 0.5:
            operands.reverse()
        return model.node(kind, *operands)

    def relu(self, x):
        return self.model.node("Relu", x)

    def branch(self, x):
        """A sum of two or three tensors, one of them read twice."""
        others = [self.model.node("Relu", x) for _ in range(self.rng.randint(1, 2))]
        return self.model.node("Sum" if len(others) > 1 else "Add", x, *others)

    def joined(self, x):
        return self.model.node("Concat", x, self.model.node("Relu", x), axis=1)

    def pool(self, x):
        rng = self.rng
        extents = self.shape(x)[2:]
        kernel = [rng.randint(1, min(3, extent)) for extent in extents]
        strides = [rng.randint(1, 3) for _ in extents]
        before = [rng.randint(0, k // 2) for k in kernel]
        return self.model.node(
            "MaxPool", x, kernel_shape=kernel, strides=strides, pads=before + before
        )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dimensions=st.sampled_from([1, 2, 2]))
def test_random_networks_compute_what_onnx_computes(seed, dimensions, tmp_path_factory):
    rng = random.Random(seed)
    model = Model()
    image = whole(rng, rng.randint(1, 2), rng.randint(1, 4), *[rng.randint(4, 8)] * dimensions)
    grower = Grower(rng, model, image)
    x = grower.grow(grower.convolution(model.input("x", *image.shape)), rng.randint(0, 4))
    path = tmp_path_factory.mktemp("random") / "model.onnx"
    imported = same_values(path, model.proto(x), grower.feeds)
    made = Counter(node.op_type for node in model.nodes)
    found = Counter(node.op for node in imported.network.nodes)
    assert found["conv"] + found["conv1d"] == made["Conv"]
    assert found["maxpool"] == made["MaxPool"]
    assert found["concat"] == made["Concat"]
    # Every Conv's followers are folded, unless its output is read twice.
    assert found["host"] == 0 or made["Sum"] + made["Add"] + made["Concat"] > 0


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ceil=st.booleans(), dimensions=st.sampled_from([1, 2]))
def test_maximum_pooling_is_a_node_wherever_its_windows_are(
    seed, ceil, dimensions, tmp_path_factory
):
    rng = random.Random(seed)
    kernel = [rng.randint(1, 4) for _ in range(dimensions)]
    extents = [rng.randint(k, 9) for k in kernel]
    before, after = ([rng.randint(0, k - 1) for k in kernel] for _ in range(2))
    strides = [rng.randint(1, 3) for _ in kernel]
    model = Model(opset=22)
    image = whole(rng, 2, 3, *extents, largest=9) - 20  # padding of zeros would win
    model.input("x", *image.shape)
    x = model.node("MaxPool", "x", kernel_shape=kernel, strides=strides, pads=before + after,
                   ceil_mode=int(ceil))  # fmt: skip
    path = tmp_path_factory.mktemp("pool") / "model.onnx"
    proto = model.proto(x)
    onnx.save(proto, str(path))
    imported = import_onnx(path)
    *_, node = imported.network.nodes
    shape = [dim.dim_value for dim in proto.graph.output[0].type.tensor_type.shape.dim]
    given_, outputs = ([1] * (2 - dimensions) + list(each) for each in (extents, shape[2:]))
    window, step, pad = ((*[fill] * (2 - dimensions), *each) for fill, each in (
        (1, kernel), (1, strides), (0, before)
    ))  # fmt: skip
    fits = [
        all(2 * p <= k for p, k in zip(pad, window, strict=True))
        and list(Pool(window, step, pad, each).outputs(given_)) == outputs
        for each in (False, True)
    ]
    assert (node.op == "maxpool") == any(fits)
    if node.op == "maxpool":
        same_values(path, proto, {"x": image})
    else:
        assert node.function == "max_pool"
        assert imported.network.shape(node.name)[3] == 3


def test_uneven_padding_of_caffe_and_of_same_is_a_node(path):
    """Padding (0, 0, 1, 1) with kernel 3, stride 2: on 6 rows windows begin at 0, 2 and 4."""
    model = Model()
    model.input("x", 1, 2, 6, 6)
    x = model.node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    network = import_onnx(model.save(path, x)).network
    assert network.nodes[-1].pool == Pool((3, 3), (2, 2), (0, 0), ceil=True)
    model.node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER",
               outputs=["y"])  # fmt: skip
    assert import_onnx(model.save(path, "y")).network.nodes[-1].pool == Pool((2, 2), (2, 2))


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "AveragePool", "ReduceMean", "keep"])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_means_over_the_map_are_avgpool_nodes(kind, dimensions, path):
    model = Model()
    rng = random.Random(1)
    image = whole(rng, 2, 3, *[4] * dimensions)  # a mean of 4 or 16 elements is exact
    model.input("x", *image.shape)
    weight = model.constant(whole(rng, 5, 3, *[1] * dimensions))
    x = model.node("Conv", "x", weight)
    axes = list(range(2, 2 + dimensions))
    if kind == "AveragePool":
        x = model.node(kind, x, kernel_shape=[4] * dimensions)
    elif kind == "GlobalAveragePool":
        x = model.node(kind, x)
    else:
        negative = [axis - 2 - dimensions for axis in axes]
        x = model.node("ReduceMean", x, axes=negative, keepdims=int(kind == "keep"))
    if kind != "ReduceMean":
        x = model.node("Flatten", x)
    x = model.node("Gemm", x, model.constant(whole(rng, 5, 7)))
    imported = same_values(path, model.proto(x), {"x": image})
    conv = "conv" if dimensions == 2 else "conv1d"
    assert kinds(imported.network) == ["input", conv, "avgpool", "linear"]


def test_a_global_maximum_is_one_window(path):
    model = Model()
    image = whole(random.Random(1), 2, 3, 4, 5)
    model.input("x", *image.shape)
    imported = same_values(path, model.proto(model.node("GlobalMaxPool", "x")), {"x": image})
    assert imported.network.nodes[-1].pool == Pool((4, 5), (1, 1))


def interleaved(shape, filters, kernel, strides, pads, extra, groups):
    """The host's part of a transposed convolution, as `workloads.transposed` describes it."""
    parts, whole_shape = phases("t", shape, filters, kernel, strides, pads, extra, groups)

    def crop(node, sources):
        part = next(part for part in parts if node.name == f"{part.layer.name}.crop")
        top, bottom, left, right = part.crop
        return sources[0][:, top:bottom, left:right]

    def interleave(node, sources):
        output = np.zeros(whole_shape)
        N, _, _, C = whole_shape
        for part, source in zip(parts, sources, strict=True):
            P, Q = source.shape[1:3]
            split = source.reshape(N, P, Q, groups, len(part.offsets), C // groups)
            for place, (row, col) in enumerate(part.offsets):
                piece = split[:, :, :, :, place].reshape(N, P, Q, C)
                output[:, row :: strides[0], col :: strides[1]] = piece
        return output

    return {"crop": crop, "interleave": interleave}


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dimensions=st.sampled_from([1, 2, 2]))
def test_transposed_convolutions_compute_what_torch_computes(seed, dimensions, tmp_path_factory):
    """Torch's without padding; what ONNX pads is cut off torch's whole output."""
    rng = random.Random(seed)
    groups = rng.choice([1, 1, 2])
    channels, filters = groups * rng.randint(1, 2), groups * rng.randint(1, 2)
    extents = [rng.randint(2, 5) for _ in range(dimensions)]
    kernel = [rng.randint(1, 4) for _ in extents]
    strides = [rng.randint(1, 3) for _ in extents]
    longest = [(e - 1) * s + k for e, s, k in zip(extents, strides, kernel, strict=True)]
    before = [rng.randint(0, min(2, full - 1)) for full in longest]
    after = [rng.randint(0, min(2, full - 1 - b)) for full, b in zip(longest, before, strict=True)]
    more = [rng.randint(0, s - 1) for s in strides]
    attributes = {"strides": strides, "group": groups, "kernel_shape": kernel}
    way = rng.choice(["pads", "output_shape", "SAME_UPPER", "SAME_LOWER", "VALID"])
    out = [f + m - b - a for f, m, b, a in zip(longest, more, before, after, strict=True)]
    if way == "pads":
        attributes |= {"pads": before + after, "output_padding": more}
    elif way == "VALID":
        attributes["auto_pad"] = way
        before, out = [0] * dimensions, longest
    else:
        if way == "output_shape":
            out = [max(o, e) for o, e in zip(out, extents, strict=True)]  # less is refused
            attributes["output_shape"] = out
        else:
            attributes["auto_pad"] = way
            # What a kernel shorter than the stride does not reach is not there.
            out = [min(f, e * s) for f, e, s in zip(longest, extents, strides, strict=True)]
        totals = [max(0, f - o) for f, o in zip(longest, out, strict=True)]
        before = [t // 2 if way == "SAME_UPPER" else t - t // 2 for t in totals]
    image = whole(rng, 2, channels, *extents)
    weight = whole(rng, channels, filters // groups, *kernel)
    bias = whole(rng, filters)
    biased, normalised = rng.random() < 0.5, rng.random() < 0.5
    model = Model()
    model.input("x", *image.shape)
    inputs = ["x", model.constant(weight), *([model.constant(bias)] if biased else [])]
    x = model.node("ConvTranspose", *inputs, outputs=["t"], **attributes)
    shift = np.zeros(filters)
    scale = np.ones(filters)
    if normalised:
        scale, shift = np.exp2(whole(rng, filters, largest=1)), whole(rng, filters)
        shape = (filters, *[1] * dimensions)
        x = model.node("Mul", x, model.constant(scale.reshape(shape)))
        x = model.node("Add", x, model.constant(shift.reshape(shape)))
    path = tmp_path_factory.mktemp("transposed") / "model.onnx"
    imported = import_onnx(model.save(path, x))

    # Zeros behind, where output padding reaches beyond the kernel; then cut to the output.
    function = F.conv_transpose1d if dimensions == 1 else F.conv_transpose2d
    full = function(torch.from_numpy(image), torch.from_numpy(weight), None, strides,
                    groups=groups).numpy()  # fmt: skip
    full = np.pad(full, [(0, 0), (0, 0), *[(0, 9)] * dimensions])
    cut = tuple(slice(b, b + o) for b, o in zip(before, out, strict=True))
    wanted = full[(slice(None), slice(None), *cut)]
    per_channel = (slice(None), *[None] * dimensions)
    wanted = (wanted + biased * bias[per_channel]) * scale[per_channel] + shift[per_channel]

    rows = [1] * (2 - dimensions)
    N, H, W, C = nhwc(image).shape
    behind = [o + b - f for o, b, f in zip(out, before, longest, strict=True)]
    none = [0] * len(rows)
    sides = [(b, max(0, -m)) for b, m in zip(before, behind, strict=True)]
    host = interleaved(
        (N, H, W, C), filters, (*rows, *kernel), (*rows, *strides),
        (*none, *none, *(side for pair in sides for side in pair)),
        (*none, *(max(0, m) for m in behind)), groups,
    )  # fmt: skip
    host["add"] = lambda node, sources: sources[0] + bias_behind
    bias_behind = biased * bias * scale + shift
    last = imported.network.nodes[-1].name
    found = execute(imported, {"x": nhwc(image)}, host)[last]
    np.testing.assert_array_equal(found, nhwc(wanted))


@pytest.mark.parametrize("extent", [5, 14])
@pytest.mark.parametrize("pads", [[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 1, 0]])
def test_padding_at_one_end_costs_what_its_mirror_image_does(extent, pads, path):
    """Per axis one output of two has 2 taps and the other 1: n * 3, all of them multiplied."""
    model = Model()
    weight = model.constant(np.ones((6, 4, 3, 3)))
    x = model.input("x", 1, 6, extent, extent)
    x = model.node("ConvTranspose", x, weight, pads=pads, strides=[2, 2])
    network = import_onnx(model.save(path, x)).network
    assert network.macs == extent * extent * 9 * 6 * 4
    assert {node.function for node in network.nodes if node.op == "host"} == {"interleave"}


def test_an_output_smaller_than_the_input_is_refused(path):
    model = Model()
    model.input("x", 1, 1, 5, 5)
    weight = model.constant(np.ones((1, 1, 2, 2)))
    model.node("ConvTranspose", "x", weight, output_shape=[3, 9], outputs=["t"])
    with pytest.raises(WorkloadError, match=r"layer 't': output_shape=\[3, 9\] must be at least"):
        import_onnx(model.save(path, "t"))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_gemm_computes_what_onnx_computes(seed, tmp_path_factory):
    rng = random.Random(seed)
    rows, shared, columns = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 5)
    turned, flipped = rng.random() < 0.3, rng.random() < 0.5
    image = whole(rng, *((shared, rows) if turned else (rows, shared)))
    weight = whole(rng, *((columns, shared) if flipped else (shared, columns)))
    model = Model()
    inputs = [model.input("x", *image.shape), model.constant(weight)]
    bias = rng.choice([None, (), (1,), (columns,), (1, columns)])
    if bias is not None:
        inputs.append(model.constant(whole(rng, *bias)))
    alpha, beta = 2.0 ** rng.randint(-1, 1), 2.0 ** rng.randint(-1, 1)
    x = model.node("Gemm", *inputs, transA=int(turned), transB=int(flipped), alpha=alpha, beta=beta)
    if rng.random() < 0.5:
        x = model.node("Add", model.constant(whole(rng, columns)), x)
    path = tmp_path_factory.mktemp("gemm") / "model.onnx"
    # A transposed input is moved by the host; a single row or column is where it should be.
    host = {
        "transpose": lambda node, sources: sources[0].transpose(3, 1, 2, 0),
        "reshape": lambda node, sources: sources[0].reshape(node.output_shape),
    }
    imported = same_values(path, model.proto(x), {"x": image}, host)
    (layer,) = imported.network.layers
    assert (layer.N, layer.C, layer.K, layer.macs) == (
        rows, shared, columns, rows * shared * columns
    )  # fmt: skip


@pytest.mark.parametrize("order", ["left", "right"])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_matmul_with_a_constant_is_linear(order, batch, path):
    rng = random.Random(str((order, batch)))
    model = Model()
    image = whole(rng, *batch, 4, 5)
    model.input("x", *image.shape)
    if order == "right":
        weight = whole(rng, 5, 6)
        x = model.node("MatMul", "x", model.constant(weight.reshape(*[1] * len(batch), 5, 6)))
        x = model.node("Mul", x, model.constant(np.full(6, 0.5)))
        x = model.node("Add", x, model.constant(bias := whole(rng, 6)))
        wanted = image @ weight * 0.5 + bias
    else:
        weight = whole(rng, 6, 4)
        x = model.node("MatMul", model.constant(weight), "x")
        wanted = np.moveaxis(weight @ image, -2, -1)
        image = np.moveaxis(image, -2, -1)
    imported = import_onnx(model.save(path, x))
    _, *moves, last = imported.network.nodes
    cells = int(np.prod(image.shape[:-1]))
    assert last.op == "linear"
    assert last.layer.macs == cells * weight.size
    assert [node.function for node in moves] in ([], ["transpose"])
    # As rows of channels, whatever their places in N, H and W.
    given_ = image.reshape(imported.network.shape(last.inputs[0]))
    own = imported.weights[last.name]
    found = given_.reshape(cells, -1) @ own.weight[:, :, 0, 0].T.astype(float) + own.bias
    np.testing.assert_array_equal(found, wanted.reshape(cells, -1))


@pytest.mark.parametrize(
    ("equation", "image", "weight", "macs"),
    [
        ("btd,de->bte", (2, 3, 4), (4, 5), 2 * 3 * 4 * 5),
        ("btd,ed->bte", (2, 3, 4), (5, 4), 2 * 3 * 4 * 5),
        ("bthc,hcd->btd", (2, 3, 4, 5), (4, 5, 6), 2 * 3 * 20 * 6),
        ("btd,dhc->bthc", (2, 3, 4), (4, 5, 6), 2 * 3 * 4 * 30),
        ("btd,dhc->bhtc", (2, 3, 4), (4, 5, 6), 2 * 3 * 4 * 30),
        ("bchw,kc->bkhw", (2, 3, 4, 5), (6, 3), 2 * 20 * 3 * 6),
        ("ij,jk", (2, 3), (3, 4), 24),
    ],
)
def test_einsum_with_a_constant_is_linear(equation, image, weight, macs, path):
    rng = random.Random(equation)
    model = Model()
    model.input("x", *image)
    values = whole(rng, *weight)
    x = model.node("Einsum", "x", model.constant(values), equation=equation)
    imported = import_onnx(model.save(path, x))
    *_, last = imported.network.nodes
    assert (last.op, last.layer.macs) == ("linear", macs)
    # The weight is the product with a unit per input channel.
    own = imported.weights[last.name].weight[:, :, 0, 0]
    terms, _, out = equation.partition("->")
    data, factor = terms.split(",")
    shared = [x for x in data if x in factor]
    columns = [x for x in (out or "ik") if x in factor]
    wanted = np.einsum(f"{factor}->{''.join(columns + shared)}", values).reshape(own.shape)
    np.testing.assert_array_equal(own, wanted)


def test_images_flattened_for_a_classifier_keep_the_files_order(path):
    """A map of more than one pixel is reordered by the host, to channels, rows, columns."""
    rng = random.Random(3)
    model = Model()
    image = whole(rng, 2, 3, 4, 5)
    model.input("x", *image.shape)
    x = model.node("Gemm", model.node("Flatten", "x"), model.constant(whole(rng, 60, 7)))

    def flatten(node, sources):
        return sources[0].transpose(0, 3, 1, 2).reshape(node.output_shape)

    imported = same_values(path, model.proto(x), {"x": image}, {"flatten": flatten})
    assert kinds(imported.network) == ["input", "flatten", "linear"]
