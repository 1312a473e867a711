"""Models: shapes, sizes in closed form, seeds, and what later chapters need of every network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import models
from course_lib.models.resnet import BasicBlock

SMALL = {
    "mlp": {"image_size": 16, "hidden": (12, 9)},
    "convnet_teacher": {"image_size": 16, "channels": (3, 4), "hidden": 8},
    "convnet_student": {"image_size": 16, "filters": 2, "patch": 4},
    "vgg": {"widths": (4, "M", 6)},
    "resnet": {"widths": (4, 6), "blocks": (1, 2)},
    "mobilenet": {"stem": 4, "widths": ((6, 1), (8, 2))},
    "efficientnet_lite0": {
        "stem": 4,
        "stages": ((1, 4, 1, 3, 1), (2, 6, 2, 5, 2)),
        "head": 8,
        "image_size": 16,
    },
}
CHANNELS = {
    "efficientnet_lite0": 3
}  # of an image that a network takes unless told otherwise; 1 for the others


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def state(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def images(number=3, *, channels=1, size=16):
    return torch.rand(number, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_every_network_is_tried_here():
    assert tuple(SMALL) == models.NAMES


# Shapes


@pytest.mark.parametrize("name", models.NAMES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 4)])
def test_images_become_one_logit_a_class(name, channels, classes):
    model = models.build(name, in_channels=channels, classes=classes, **SMALL[name])
    assert model(images(channels=channels)).shape == (3, classes)
    assert model(images(2, channels=channels)[:1].repeat(2, 1, 1, 1)).dtype == torch.float32


@pytest.mark.parametrize("name", ["vgg", "resnet", "mobilenet"])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_networks_with_global_pooling_take_any_image_size(name, size):
    assert models.build(name, **SMALL[name])(images(size=size)).shape == (3, 10)


@pytest.mark.parametrize("size", [4, 16, 28, 30, 31])
def test_teacher_and_mlp_are_built_for_the_image_size_they_are_told(size):
    for name in ("convnet_teacher", "mlp"):
        options = SMALL[name] | {"image_size": size}
        assert models.build(name, **options)(images(size=size)).shape == (3, 10)


@pytest.mark.parametrize(("size", "patch"), [(28, 7), (16, 4), (17, 4), (5, 5)])
def test_the_student_is_built_for_its_patches(size, patch):
    model = models.build("convnet_student", image_size=size, patch=patch)
    assert model(images(size=size)).shape == (3, 10)


# Sizes


def linear(inputs, outputs):
    return inputs * outputs + outputs


def conv_bn(inputs, outputs, kernel=3, groups=1):
    return inputs // groups * outputs * kernel**2 + 2 * outputs


def test_sizes_by_hand():
    assert count(models.build("mlp", image_size=28)) == linear(784, 128) + linear(128, 10) == 101_770
    assert count(models.build("convnet_student")) == (49 + 1) + linear(16, 10) == 220
    teacher = (9 * 64 + 64) + (64 * 9 * 128 + 128) + linear(128 * 7 * 7, 1024) + linear(1024, 10)
    assert count(models.build("convnet_teacher")) == teacher == 6_508_298
    vgg = sum(conv_bn(a, b) for a, b in ((1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)))
    assert count(models.build("vgg")) == vgg + linear(128, 10) == 288_170


def test_resnet_20_has_the_size_of_the_paper_plus_its_two_projections():
    """269,722 with the paper's shortcuts without parameters (option A); two 1x1 projections with batch norm more."""
    stage = [conv_bn(a, b) for a, b in ((3, 16), *[(16, 16)] * 6)]
    stage += [conv_bn(a, b) for a, b in ((16, 32), *[(32, 32)] * 5, (32, 64), *[(64, 64)] * 5)]
    plain = sum(stage) + linear(64, 10)
    projections = conv_bn(16, 32, kernel=1) + conv_bn(32, 64, kernel=1)
    model = models.build("resnet", in_channels=3, blocks=(3, 3, 3))
    assert plain == 269_722
    assert count(model) == plain + projections == 272_474
    layers = [
        layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ]
    assert len(layers) + 1 == 20  # with the linear layer, as the paper counts


def test_mobilenet_has_a_depthwise_and_a_pointwise_convolution_a_block():
    expected = conv_bn(1, 32) + linear(256, 10)
    for inputs, outputs in ((32, 64), (64, 128), (128, 128), (128, 256), (256, 256)):
        expected += conv_bn(inputs, inputs, groups=inputs) + conv_bn(inputs, outputs, kernel=1)
    model = models.build("mobilenet")
    assert count(model) == expected
    grouped = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [(m.groups, m.in_channels, m.out_channels) for m in grouped] == [
        (width, width, width) for width in (32, 64, 128, 128, 256)
    ]
    assert [m.stride[0] for m in grouped] == [1, 2, 1, 2, 1]


# Seeds


@pytest.mark.parametrize("name", models.NAMES)
def test_the_seed_alone_decides_the_weights(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = state(models.build(name, seed=4, **SMALL[name]))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(state(models.build(name, seed=4, **SMALL[name])), first)
    assert not torch.equal(state(models.build(name, seed=5, **SMALL[name])), first)
    assert torch.equal(
        state(models.build(name, **SMALL[name])), state(models.build(name, seed=0, **SMALL[name]))
    )


# What later chapters rest on


@pytest.mark.parametrize("name", models.NAMES)
def test_the_gradient_reaches_every_parameter(name):
    model = models.build(name, **SMALL[name])
    assert model.training
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    model(images(8, channels=CHANNELS.get(name, 1))).square().sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []


@pytest.mark.bad_input  # the checker is off: what a tracer passes through the network is no tensor
@pytest.mark.parametrize("name", models.NAMES)
def test_the_graph_can_be_traced(name):
    model = models.build(name, **SMALL[name]).eval()
    traced = torch.fx.symbolic_trace(model)
    batch = images(5, channels=CHANNELS.get(name, 1))
    assert torch.equal(traced(batch), model(batch))


@pytest.mark.parametrize("name", models.NAMES)
def test_at_rest_an_image_is_judged_without_regard_to_its_neighbours(name):
    model = models.build(name, **SMALL[name])
    channels = CHANNELS.get(name, 1)
    model(images(16, channels=channels) * 3)  # running statistics that are not those of the batch
    model.eval()
    batch = images(6, channels=channels)
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(image[None]) for image in batch])
        assert torch.equal(model(batch), together)  # no dropout left
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", models.NAMES)
def test_the_images_are_left_as_they_were(name):
    given = images(channels=CHANNELS.get(name, 1))
    models.build(name, **SMALL[name])(given)
    assert torch.equal(given, images(channels=CHANNELS.get(name, 1)))


def test_a_residual_block_adds_its_input():
    """With the last batch norm at zero every block is relu(x), so the stages do nothing to the stem's output."""
    model = models.build("resnet", widths=(4,), blocks=(3,)).eval()
    for block in list(model)[3:6]:
        nn.init.zeros_(block.bn2.weight)
        nn.init.zeros_(block.bn2.bias)
    stem = model[:3](images())
    torch.testing.assert_close(model(images()), model[6:](stem))


@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (6, 1), (4, 2), (6, 2)])
def test_a_residual_block_is_its_formula(outputs, stride):
    block = BasicBlock(4, outputs, stride)
    x = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def normed(values):  # a fresh batch norm in training: no scale, no shift
        mean, variance = (
            values.mean(dim=(0, 2, 3), keepdim=True),
            values.var(dim=(0, 2, 3), keepdim=True, correction=0),
        )
        return (values - mean) / (variance + 1e-5).sqrt()

    branch = normed(F.conv2d(x, block.conv1.weight, stride=stride, padding=1)).clamp(min=0)
    branch = normed(F.conv2d(branch, block.conv2.weight, padding=1))
    tied = outputs == 4 and stride == 1
    shortcut = x if tied else normed(F.conv2d(x, block.shortcut[0].weight, stride=stride))
    torch.testing.assert_close(block(x), (branch + shortcut).clamp(min=0), rtol=1e-4, atol=1e-4)


def test_the_teacher_has_no_activation_between_its_linear_layers_and_drops_only_in_training():
    model = models.build("convnet_teacher", **SMALL["convnet_teacher"])
    with torch.no_grad():
        assert not torch.equal(model(images()), model(images()))
    model.eval()
    x = model.flatten(model.pool(model.relu(model.conv2(model.pool(model.relu(model.conv1(images())))))))
    torch.testing.assert_close(model(images()), model.fc2(model.fc1(x)))
    assert model.dropout.p == 0.5


# Errors


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("given", "nearest"), [("resnett", "resnet"), ("VGG", "vgg"), ("mobile_net", "mobilenet")]
)
def test_an_unknown_model_is_answered_with_the_nearest(given, nearest):
    with pytest.raises(
        KeyError, match=f"unknown model '{given}'. Did you mean '{nearest}'.*Known: mlp, conv"
    ):
        models.build(given)


@pytest.mark.bad_input
@pytest.mark.parametrize("given", ["", None, 3])
def test_what_is_near_to_nothing_is_answered_with_all_names(given):
    with pytest.raises(KeyError, match=r"unknown model .*Known: mlp, convnet_teacher"):
        models.build(given)


def test_a_vgg_starts_from_the_scale_it_is_told_and_from_the_same_weights():
    plain, told = (models.build("vgg", seed=3, widths=(4, "M", 6), **more) for more in ({}, {"gamma": 0.5}))
    for (name, one), other in zip(plain.state_dict().items(), told.state_dict().values(), strict=True):
        scale = isinstance(dict(plain.named_modules())[name.rpartition(".")[0]], nn.BatchNorm2d)
        if scale and name.endswith("weight"):
            assert (one == 1).all()
            assert (other == 0.5).all()
        else:
            assert torch.equal(one, other)


@pytest.mark.bad_input
def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(
        TypeError, match=r"option of vgg 'width'\. Did you mean 'widths'.*in_channels, widths, cla"
    ):
        models.build("vgg", width=(4,))
    with pytest.raises(TypeError, match=r"option of resnet 'image_size'.*Known: in_channels, widths, blocks"):
        models.build("resnet", image_size=16)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("vgg", {"seed": -1}, ValueError, "seed is -1; it must be at least 0"),
        ("vgg", {"seed": 1.0}, TypeError, r"seed is 1\.0 \(float\)"),
        ("mlp", {"image_size": 0}, ValueError, "image_size is 0; it must be at least 1"),
        ("mlp", {"image_size": 16.0}, TypeError, r"image_size is 16\.0 \(float\)"),
        ("mlp", {"hidden": (12, 0)}, ValueError, "hidden width is 0"),
        ("mlp", {"classes": 0}, ValueError, "classes is 0"),
        ("convnet_teacher", {"image_size": 3}, ValueError, "image_size is 3; it must be at least 4"),
        ("convnet_student", {"filters": 0}, ValueError, "filters is 0"),
        ("convnet_student", {"image_size": 6}, ValueError, "patch is 7; it must be from 1 to 6"),
        ("vgg", {"widths": (8, "P")}, ValueError, "widths holds 'P'; it takes numbers of channels and \"M\""),
        ("vgg", {"widths": (8, 4.0)}, ValueError, r"widths holds 4\.0"),
        ("vgg", {"widths": (8, 0)}, ValueError, "width is 0; it must be at least 1"),
        ("vgg", {"widths": ("M",)}, ValueError, "needs at least one convolution"),
        ("vgg", {"gamma": float("nan")}, ValueError, "gamma is nan"),
        ("vgg", {"gamma": "0.5"}, TypeError, "gamma"),
        ("vgg", {"widths": ()}, ValueError, "needs at least one convolution"),
        (
            "resnet",
            {"widths": (8,), "blocks": (1, 1)},
            ValueError,
            r"widths \(8,\) and blocks \(1, 1\) must name",
        ),
        ("resnet", {"widths": (), "blocks": ()}, ValueError, "at least one"),
        ("resnet", {"blocks": (1, 0, 1)}, ValueError, "blocks is 0"),
        ("resnet", {"widths": (8, -1, 8)}, ValueError, "width is -1"),
        ("mobilenet", {"stem": 0}, ValueError, "stem is 0"),
        ("mobilenet", {"widths": ((8, 0),)}, ValueError, "stride is 0"),
        ("mobilenet", {"widths": ((0, 1),)}, ValueError, "width is 0"),
        *[(name, {"classes": 0}, ValueError, "classes is 0") for name in models.NAMES],
        *[(name, {"in_channels": 0}, ValueError, "in_channels is 0") for name in models.NAMES],
    ],
)
def test_a_wrong_option_is_named_with_its_value(name, options, error, message):
    with pytest.raises(error, match=message):
        models.build(name, **options)
