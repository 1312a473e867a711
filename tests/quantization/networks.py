"""Networks to quantize, small and with everything that the operations know, and what their tests share."""

import functools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation, StochasticDepth

from course_lib import models
from course_lib.quantization.affine import dequantize, fake_quantize, quantize
from course_lib.quantization.steps import execute
from course_lib.quantization.workflow import calibrate, collect, quantize_model, to_integer

traces = pytest.mark.bad_input  # torch.fx passes proxies through the forward() of our models


class Odd(nn.Module):
    """What the networks of the course have not: ReLU6, average and overlapping pooling, groups, dilation, `same`."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, (3, 1), stride=(2, 1), padding=(2, 0), dilation=(2, 1), groups=8)
        self.group = nn.Conv2d(8, 12, 1, groups=4, padding="valid")
        self.project = nn.Conv2d(8, 12, 1, stride=(2, 1), bias=False)
        self.project_norm = nn.BatchNorm2d(12, affine=False)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.hidden = nn.Linear(12, 9)
        self.hidden_norm = nn.BatchNorm1d(9)
        self.logits = nn.Linear(9, 5)

    def forward(self, x):
        x = F.relu6(self.norm(self.stem(x)))
        y = self.group(F.dropout(self.depth(x), 0.5, self.training)).relu()
        y += self.project_norm(self.project(x))
        y = self.pool(y)  # its input has negative numbers: no ReLU behind this addition
        y = y.mean((2, 3))
        return self.logits(torch.relu(self.hidden_norm(self.hidden(y))))


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, bias=False)
        self.fc = nn.Linear(24, 4)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.avg_pool2d(F.relu(self.conv2(x)), kernel_size=2)
        return self.fc(x.view(x.size(0), -1))


class Gated(nn.Module):
    """Activation functions by table, and squeeze-and-excitation: blocks of torchvision, and functions."""

    def __init__(self):
        super().__init__()
        self.stem = Conv2dNormActivation(3, 8, activation_layer=nn.Hardswish)
        self.squeeze = SqueezeExcitation(8, 4, scale_activation=nn.Hardsigmoid)
        self.expand = Conv2dNormActivation(8, 12, stride=2, activation_layer=nn.SiLU)
        self.excite = SqueezeExcitation(12, 3, activation=nn.SiLU)
        self.project = Conv2dNormActivation(12, 8, 1, activation_layer=None)
        self.depth = StochasticDepth(0.4, "row")
        self.shortcut = nn.Conv2d(8, 8, 1, 2)
        self.factor, self.hidden, self.logits = nn.Linear(8, 8), nn.Linear(8, 9), nn.Linear(9, 5)

    def forward(self, x):
        x = self.squeeze(self.stem(x))
        y = self.depth(self.project(self.excite(self.expand(x))))
        y = F.leaky_relu(y + F.hardswish(self.shortcut(x)), 0.2)
        count, channels = y.shape[:2]
        factors = torch.sigmoid(self.factor(y.mean((2, 3)))).view(count, channels, 1, 1)
        y = self.hidden(F.silu(y * factors.expand_as(y)).mean((2, 3)))
        return self.logits(y * (torch.sigmoid(y) - F.hardsigmoid(y)))


def shaken(model, seed=0):
    """With batch norms that do something, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            if norm.affine:
                nn.init.normal_(norm.weight, 1, 0.2, generator=generator)
                nn.init.normal_(norm.bias, 0, 0.2, generator=generator)
    return model.eval()


def seeded(build, *arguments, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return shaken(build(*arguments, **options))


NETWORKS = {
    "vgg": (lambda: models.build("vgg", in_channels=3, widths=(8, "M", 8, 16)), 12),
    "resnet": (lambda: models.build("resnet", in_channels=3, widths=(8, 12), blocks=(1, 2)), 12),
    "mobilenet": (
        lambda: models.build("mobilenet", in_channels=3, stem=8, widths=((12, 1), (16, 2))),
        12,
    ),
    "mlp": (lambda: models.build("mlp", in_channels=3, image_size=8, hidden=(20, 10)), 8),
    "convnet_teacher": (
        lambda: models.build("convnet_teacher", in_channels=3, image_size=8, channels=(6, 8), hidden=16),
        8,
    ),
    "convnet_student": (lambda: models.build("convnet_student", in_channels=3, image_size=8, patch=4), 8),
    "torchvision_resnet": (lambda: torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10), 33),
    "torchvision_mobilenet": (
        lambda: torchvision.models.MobileNetV2(10, inverted_residual_setting=[[1, 8, 1, 1], [6, 12, 2, 2]]),
        32,
    ),
    "odd": (Odd, 13),
    "pooled": (Pooled, 15),
    "gated": (Gated, 10),
}


@functools.cache
def network(name):
    """The network and images for it."""
    build, size = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    shape = (24, 3, size, size)
    return seeded(build), torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@functools.cache
def histograms_of(name):
    return collect(*network(name))


def quantized(name, method="max", **options):
    ranges = calibrate(histograms_of(name), method, bits=options.get("activation_bits", 8))
    return quantize_model(network(name)[0], ranges, **options)


def tensors_of(net, images):
    """Every result of a simulated or integer network, by the name of its step."""
    found = {}

    def compute(step, *inputs):
        found[step.name] = net.compute(step, *inputs)
        return found[step.name]

    with torch.no_grad():
        execute(net.steps, compute, images)
    return found


def hand_made():
    """Two linear layers with a ReLU between them, on images of two pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[12.7, -6.3], [1.26, 2.54]]))
        model[1].bias.copy_(torch.tensor([1.0, -4.0]))
        model[3].weight.copy_(torch.tensor([[-1.27, 1.0]]))
        model[3].bias.fill_(0.5)
    return model, {"images": (0.0, 51.0), "1": (0.0, 510.0), "logits": (-1000.0, 1550.0)}


def check_that_both_forms_agree(simulated, images):
    """Every step of the integer network, but for halves."""
    integers = to_integer(simulated)
    tensors = {step.name: step.tensor for step in simulated.steps}

    def compute(step, *inputs):
        """The step on integers, compared with that on the real numbers that they stand for."""
        q, params = integers.compute(step, *inputs), simulated.activations[step.tensor]
        numbers = [
            dequantize(x, simulated.activations[tensors[n]])
            for x, n in zip(inputs, step.inputs, strict=False)
        ]
        real = simulated.compute(step, *(numbers or inputs))
        apart = (quantize(real, params).int() - q.int()).abs()
        assert apart.max() <= 1, step
        # In the mean of four steps every fourth is a half.
        assert apart.float().mean() < (0.3 if step.operation == "avg_pool2d" else 0.001), step
        assert torch.equal(fake_quantize(real, params), real), step  # on the grid of the integers exactly
        return q

    with torch.no_grad():
        execute(simulated.steps, compute, images)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, [
        (name, module.training) for name, module in model.named_modules()
    ]


IMAGES = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Body(nn.Module):
    """A network of one convolution whose rest is a function."""

    def __init__(self, body, **layers):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.ones(1))
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = body

    def forward(self, x):
        return self.body(self, x)
