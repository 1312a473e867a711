"""Networks that normalise their images inside: in floating point, before the images are rounded."""

import copy

import pytest
import torch
import torchvision.transforms.functional as TF
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.functional import normalize

from course_lib.data import to_float
from course_lib.quantization import saving
from course_lib.quantization._original import original
from course_lib.quantization.aware import convert, prepare
from course_lib.quantization.translate import translate
from course_lib.quantization.workflow import calibrate, collect, quantize_model, to_integer
from tests.quantization.networks import seeded, state, traces

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURE = torch.linspace(0, 1, 192).view(3, 8, 8)
IMAGES = torch.randint(0, 256, (130, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def column(values, ndim=4):
    return torch.tensor(values).reshape([1] * (ndim - 3) + [-1, 1, 1])


class Inside(nn.Module):
    """Normalises as `form` does, with constants of all kinds; then layers."""

    def __init__(self, form=lambda m, x: (x - m.mean) / m.std, **layers):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.fc = nn.Linear(54, 4)
        self.register_buffer("mean", column(MEAN))
        self.register_buffer("std", column(STD, 3))
        self.frozen = nn.Parameter(column(MEAN), requires_grad=False)
        self.learned = nn.Parameter(column(MEAN))
        self.flat, self.plain, self.form = torch.tensor(MEAN), column(MEAN), form
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.fc(self.body(self.form(self, x)))


def moved(m, x):
    return (x - m.mean.to(x.device)) / m.std.type_as(x)


FORMS = {
    "buffers": lambda m, x: (x - m.mean) / m.std,
    "methods": lambda m, x: x.sub(m.mean).div(m.std),
    "functions": lambda m, x: torch.div(torch.sub(x, m.mean), m.std),
    "in place behind": lambda m, x: torch.sub(x, m.mean).div_(m.std),
    "constants": lambda m, x: (x - column(MEAN)) / torch.tensor(STD)[None, :, None, None],
    "attributes": lambda m, x: (x - m.plain) / m.std,
    "reshaped": lambda m, x: (x - m.flat.view(1, -1, 1, 1)) / m.std,
    "frozen": lambda m, x: (x - m.frozen) / m.std,
    "moved": moved,
    "module": lambda m, x: m.norm(x),
    "module of v2": lambda m, x: m.norm2(x),
    "function of torchvision": lambda m, x: normalize(x, MEAN, std=list(STD)),
    "attribute of torchvision": lambda m, x: TF.normalize(tensor=x, mean=m.flat, std=STD),
    "attribute of v2": lambda m, x: v2.functional.normalize(x, list(MEAN), list(STD)),
}


def inside(form):
    layers = {"norm": transforms.Normalize(MEAN, STD), "norm2": v2.Normalize(MEAN, STD)}
    return seeded(Inside, FORMS[form] if isinstance(form, str) else form, **layers)


def outside():
    return inside(lambda m, x: x)


def normalised(images):
    return (to_float(images) - column(MEAN)) / column(STD)


def quantized(model, images=IMAGES, **options):
    return quantize_model(model, calibrate(collect(model, images)), **options)


@traces
@pytest.mark.parametrize("form", FORMS)
def test_inside_is_what_it_is_outside(form):
    expected, found = quantized(outside(), normalised(IMAGES)), quantized(inside(form))
    assert list(found.activations) == list(expected.activations)
    for tensor, params in expected.activations.items():
        assert torch.equal(params.scale, found.activations[tensor].scale), tensor
    assert torch.equal(found(to_float(IMAGES)), expected(normalised(IMAGES)))
    integers = to_integer(found)(to_float(IMAGES))
    assert torch.equal(integers, to_integer(expected)(normalised(IMAGES)))


@traces
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda m, x: x * 2 - 1, lambda x: x * 2 - 1),
        (lambda m, x: 2 * x + 0.25, lambda x: 2 * x + 0.25),
        (lambda m, x: 1 - x, lambda x: 1 - x),
        (lambda m, x: (0.5 + x).mul_(3), lambda x: (0.5 + x) * 3),
        (lambda m, x: x - PICTURE, lambda x: x - PICTURE),
    ],
)
def test_any_sums_and_products_with_constants(form, expected):
    found, other = quantized(inside(form)), quantized(outside(), expected(to_float(IMAGES)))
    assert torch.equal(found(to_float(IMAGES)), other(expected(to_float(IMAGES))))
    assert torch.equal(to_integer(found)(to_float(IMAGES)), to_integer(other)(expected(to_float(IMAGES))))


@traces
def test_a_layer_in_front_of_any_network():
    class Normalize(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", column(MEAN))
            self.register_buffer("std", column(STD))

        def forward(self, x):
            return (x - self.mean) / self.std

    expected = quantized(outside(), normalised(IMAGES))(normalised(IMAGES))
    for layer in (Normalize(), transforms.Normalize(MEAN, STD)):
        model = nn.Sequential(layer, outside()).eval()
        before = state(model)
        assert torch.equal(quantized(model)(to_float(IMAGES)), expected)
        assert [step.operation for step in translate(model)][:2] == ["images", "conv2d"]
        assert str(state(model)) == str(before)


@traces
@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (lambda m, x: (x - m.learned) / m.std, "parameter or buffer 'learned'"),
        (lambda m, x: x.sub_(m.mean) / m.std, "parameter or buffer 'mean'"),
        (lambda m, x: transforms.functional.normalize(x, MEAN, STD, True), "normalize"),
        (lambda m, x: m.norm(x), "'norm' .* it is a Normalize"),
        (lambda m, x: (x - m.mean) * x, "parameter or buffer 'mean'"),
        (lambda m, x: x - m.mean.expand(130, 3, 8, 8), "constant"),
        (lambda m, x: torch.div(x, 2, rounding_mode="floor"), "'div'"),
    ],
)
def test_what_is_no_prologue_is_refused(form, reason):
    model = seeded(Inside, form, norm=transforms.Normalize(MEAN, STD, inplace=True))
    with pytest.raises(ValueError, match=reason):
        collect(model, to_float(IMAGES))


@traces
def test_training_with_rounding_and_files(tmp_path):
    model = inside("module")
    ranges = calibrate(collect(model, IMAGES))
    prepared = prepare(model, ranges)
    images = to_float(IMAGES)
    assert torch.equal(prepared.eval()(images), quantize_model(model, ranges)(images))
    prepared.train()(images).square().sum().backward()
    assert prepared.network.body[0].weight.grad.abs().max() > 0
    with torch.no_grad():
        prepared.network.fc.weight.add_(0.01)
    simulated = convert(prepared.eval())
    for net in (prepared, simulated, to_integer(simulated)):
        path = saving.save(net, tmp_path / "a.safetensors")
        again = saving.load(path, inside("module"))
        assert torch.equal(again(images), net(images))
        assert torch.equal(copy.deepcopy(again)(images), net(images))
        fresh = saving.load(path, inside("module"))
        fresh.load_state_dict(net.state_dict())
        other = inside(lambda m, x: TF.normalize(x, (0.485, 0.456, 0.407), STD))
        with pytest.raises(ValueError, match="prologue"):
            saving.load(path, other)
        with pytest.raises(ValueError, match="prologue"):
            saving.load(path, outside())
    assert original(model, simulated, IMAGES)[0] is not model
    with pytest.raises(ValueError, match="other layers"):
        original(outside(), simulated, IMAGES)


def test_a_constant_of_each_place_is_compared_by_its_digest():
    step, other = (
        translate(inside(form))[0] for form in (lambda m, x: x + PICTURE, lambda m, x: x + 2 * PICTURE)
    )
    assert step != other
    assert step == copy.deepcopy(step)
    assert len(str(step.options)) < 200
    assert str(step.options) != str(other.options)
