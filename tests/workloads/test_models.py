"""The trained families against published counts and against the same networks in other words."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.batch_norm import fold_batch_norm
from bfpsim.workloads.training.family import FAMILIES
from bfpsim.workloads.training.models.googlenet import GoogLeNet
from bfpsim.workloads.training.models.mobilenet import Eca, MobileNetV2Eca
from bfpsim.workloads.training.models.resnet import ResNet18
from bfpsim.workloads.training.models.vit import ViT

# Parameters that torchvision publishes of its models, for 1000 classes and three channels.
RESNET18 = 11_689_512
MOBILENETV2 = 3_504_872
GOOGLENET = 6_624_904

SMALL = {"resnet18": 4, "mobilenetv2": 4, "googlenet": 8, "vit": 16}


@pytest.fixture(autouse=True)
def single_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small sums, which a second thread only waits for
    yield
    torch.set_num_threads(threads)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def lively(module: nn.Module) -> nn.Module:
    """Give every normalisation statistics and parameters of its own, as training does."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module.eval()


def test_resnet18_at_full_width_is_torchvisions():
    module = ResNet18(64)
    # Instead of a 7x7 stem of three channels a 3x3 one of one, and 10 classes for 1000.
    assert parameters(module) == RESNET18 - 64 * (147 - 9) - 990 * 513
    assert len(convolutions(module)) == 20


def test_mobilenetv2_at_full_width_is_torchvisions_with_attention():
    module = MobileNetV2Eca(32)
    attention = [part for part in module.modules() if isinstance(part, nn.Conv1d)]
    kernels = [3] * 13 + [5] * 4  # 160 and 320 channels are the first with 5
    assert [part.kernel_size[0] for part in attention] == kernels
    plain = MOBILENETV2 - 32 * (27 - 9) - 990 * 1281
    assert parameters(module) == plain + sum(kernels)
    convs = convolutions(module)
    assert len(convs) == 52
    depthwise = [conv for conv in convs if conv.groups > 1]
    assert len(depthwise) == 17
    assert all(conv.groups == conv.in_channels == conv.out_channels for conv in depthwise)


@pytest.mark.parametrize(
    # The published rule, k = |log2(C)/2 + 1/2| to the nearest odd, by hand; 2 and 4 stay at 1.
    ("channels", "kernel"),
    [(2, 1), (4, 1), (8, 3), (12, 3), (64, 3), (127, 3), (128, 5), (512, 5), (2048, 7)],
)
def test_the_kernel_of_attention_adapts_to_the_channels(channels, kernel):
    assert Eca(channels).conv.kernel_size == (kernel,)


def test_googlenet_at_full_width_is_torchvisions():
    module = GoogLeNet(64)
    assert parameters(module) == GOOGLENET - 64 * (147 - 9) - 990 * 1025
    assert len(convolutions(module)) == 57


def test_vit_has_six_blocks_of_four_linear_layers():
    linear = [part for part in ViT(32).modules() if isinstance(part, nn.Linear)]
    assert len(linear) == 6 * 4 + 1
    assert sum(part.weight.numel() for part in linear) == 6 * 8 * 32**2 + 320


@pytest.mark.parametrize(
    ("build", "maps"),
    [
        (ResNet18, [28] * 5 + [14] * 5 + [7] * 5 + [4] * 5),
        (
            MobileNetV2Eca,
            # Stem, first block; the second's expansion; then expand, filter, project.
            [28] * 3 + [28] + [14] * 5 + [14] + [7] * 8 + [7] + [4] * 20 + [4] + [2] * 12,
        ),
        (GoogLeNet, [28] + [14] * 2 + [7] * 12 + [3] * 30 + [2] * 12),
    ],
)
def test_maps_shrink_as_documented(build, maps):
    found = []
    module = build(8).eval()
    for conv in convolutions(module):
        conv.register_forward_hook(lambda _, __, out: found.append(out.shape[-2:]))
    module(torch.zeros(2, 1, 28, 28))
    assert found == [(size, size) for size in maps]


@pytest.mark.parametrize("name", FAMILIES)
def test_folding_keeps_what_a_network_computes(name):
    torch.manual_seed(0)
    module = lively(FAMILIES[name].build(SMALL[name]))
    folded = fold_batch_norm(module)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    images = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        expected = module(images)
        # As far apart as float32 is from float64: folding loses no more than running does.
        exact = fold_batch_norm(module.double())(images.double())
        module.float()
        scale = expected.abs().max()
        assert expected.std(0).min() > 0
        assert (folded(images) - expected).abs().max() < 1e-5 * scale
        assert (exact - expected).abs().max() < 1e-5 * scale


def test_resnet18_computes_what_torch_layers_do(torch_resnet18):
    torch.manual_seed(0)
    folded = fold_batch_norm(lively(ResNet18(4)))
    oracle = torch_resnet18(4, 1, 10, True).eval()
    oracle.load_state_dict(folded.state_dict())
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(folded(images), oracle(images))


def test_googlenet_computes_what_torch_layers_do(torch_googlenet):
    torch.manual_seed(0)
    folded = fold_batch_norm(lively(GoogLeNet(64)))
    oracle = torch_googlenet(1, 10).eval()
    oracle.conv1 = type(oracle.conv1)(1, 64, 3, 1, 1)
    oracle.load_state_dict(folded.state_dict())
    images = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), oracle(images), rtol=1e-4, atol=1e-4)


def test_mobilenetv2_computes_what_its_papers_say():
    """Block by block in functions, attention in loops over channels."""
    torch.manual_seed(0)
    module = fold_batch_norm(lively(MobileNetV2Eca(8)))
    state = module.state_dict()

    def conv(x, name, stride=1, depthwise=False):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        groups = len(weight) if depthwise else 1
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=groups)

    def attend(x, name):
        (taps,) = state[f"{name}.weight"][0].numpy()
        reach = len(taps) // 2
        means = x.numpy().mean((2, 3))
        out = np.zeros_like(means)
        for sample, channel, tap in np.ndindex(*means.shape, len(taps)):
            source = channel + tap - reach
            if 0 <= source < means.shape[1]:
                out[sample, channel] += taps[tap] * means[sample, source]
        return x * torch.from_numpy(1 / (1 + np.exp(-out)))[:, :, None, None]

    with torch.no_grad():
        images = torch.randn(3, 1, 28, 28)
        x = conv(images, "stem").clamp(0, 6)
        strides = "1 21 211 2111 111 211 1".replace(" ", "")
        for index, stride in enumerate(strides):
            name = f"blocks.{index}"
            y = x if index == 0 else conv(x, f"{name}.expand").clamp(0, 6)
            y = conv(y, f"{name}.depthwise", int(stride), depthwise=True).clamp(0, 6)
            y = attend(conv(y, f"{name}.project"), f"{name}.eca.conv")
            x = x + y if index in {2, 4, 5, 7, 8, 9, 11, 12, 14, 15} else y
        x = conv(x, "head").clamp(0, 6).mean((2, 3))
        expected = x @ state["fc.weight"].T + state["fc.bias"]
        torch.testing.assert_close(module(images), expected, rtol=1e-4, atol=1e-4)


def test_vit_computes_what_torchs_own_encoder_does():
    torch.manual_seed(0)
    module = ViT(32).eval()
    layer = nn.TransformerEncoderLayer(
        32, 2, 64, dropout=0, activation="gelu", batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
    for ours, theirs in zip(module.blocks, encoder.layers, strict=True):
        for part, name in (
            (ours.attn.proj, "self_attn.out_proj"),
            (ours.mlp.fc1, "linear1"),
            (ours.mlp.fc2, "linear2"),
            (ours.norm1, "norm1"),
            (ours.norm2, "norm2"),
        ):
            theirs.get_submodule(name).load_state_dict(part.state_dict())
        theirs.self_attn.in_proj_weight = ours.attn.qkv.weight
        theirs.self_attn.in_proj_bias = ours.attn.qkv.bias
    assert parameters(module.blocks) == parameters(encoder)
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        # A patch's 16 pixels, row by row, as a vector; patches row by row.
        patches = images.reshape(3, 7, 4, 7, 4).transpose(2, 3).reshape(3, 49, 16)
        embed = module.patch_embed
        tokens = patches @ embed.weight.reshape(32, 16).T + embed.bias + module.pos_embed
        expected = module.head(module.norm(encoder(tokens)).mean(1))
        torch.testing.assert_close(module(images), expected, rtol=1e-4, atol=1e-5)
    assert expected.std(0).min() > 1e-3


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n == "mobilenetv2")) for n in FAMILIES]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_family_can_be_exported_for_any_batch(name):
    torch.manual_seed(0)
    module = fold_batch_norm(FAMILIES[name].build(SMALL[name]))
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(
        module, (torch.randn(4, 1, 28, 28),), dynamic_shapes=({0: batch},)
    ).module()
    for count in (1, 7):
        images = torch.randn(count, 1, 28, 28)
        assert torch.equal(exported(images), module(images))


@pytest.mark.parametrize(
    ("build", "width", "message"),
    [
        (ResNet18, 0, "resnet18: width=0 must be a multiple of 1 > 0"),
        (MobileNetV2Eca, 6, "mobilenetv2: width=6 must be a multiple of 4 > 0"),
        (GoogLeNet, 4, "googlenet: width=4 must be a multiple of 8 > 0"),
        (ViT, -16, "vit: width=-16 must be a multiple of 16 > 0"),
    ],
)
def test_a_width_that_leaves_half_a_channel(build, width, message):
    with pytest.raises(WorkloadError, match=f"^{message}$"):
        build(width)
