"""A borrowed network comes back as it was."""

import contextlib
import copy
from collections import OrderedDict, deque

import pytest
import torch
from torch import nn

from course_lib import tracing


def test_modes_buffers_attributes_and_random_state_come_back():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    model[0].eval()
    state, mean = torch.get_rng_state(), model[1].running_mean.clone()
    with tracing.borrowed(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        model[1].running_mean.add_(1)
        model[0].note = "left behind"
        model[2].p = 0.9
        torch.rand(3)
    assert [module.training for module in model.modules()] == [True, False, True, True]
    assert torch.equal(model[1].running_mean, mean)
    assert not hasattr(model[0], "note")
    assert model[2].p == 0.5
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_it_comes_back_after_an_error_too():
    model = nn.BatchNorm1d(4)

    def fail():
        with tracing.borrowed(model):
            model.running_var.zero_()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.training
    assert model.running_var.tolist() == [1] * 4


@pytest.mark.bad_input
def test_what_the_model_does_not_take_is_said_with_its_shape():
    with pytest.raises(
        ValueError, match=r"shape \[2, 5\], torch.float32, on cpu: RuntimeError: .*Pass a batch"
    ):
        tracing.run(nn.Linear(3, 4), torch.rand(2, 5))
    with pytest.raises(TypeError, match="a str; it must be"):
        tracing.check("resnet", torch.rand(1))
    with pytest.raises(ValueError, match=r"shape \[\]; it must be \[N, \.\.\.\]"):
        tracing.check(nn.Linear(3, 4), torch.tensor(1.0))


class Changing(nn.Module):
    """Changes all that a forward() can reach: containers of each kind, and its own hooks."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 5))
        self.plain = torch.zeros(3)
        self.cache = {"old": 1, "deep": [{"tensor": torch.zeros(2)}, ({1, 2}, OrderedDict(a=1, b=2))]}
        self.queue = deque([1, 2], maxlen=3)
        self.names, self.seen = ["a", "b"], {1, 2}
        self.once = self.register_forward_pre_hook(self.first)
        self.second = self.register_forward_pre_hook(lambda module, args: None)

    def first(self, module, args):
        self.once.remove()
        self.register_forward_hook(lambda module, args, output: output + 1)

    def forward(self, x):
        self.plain += 1
        deep = self.cache["deep"]
        deep[0]["tensor"].fill_(7)
        deep[0]["new"] = x
        deep[1][0].add(3)
        deep[1][1].move_to_end("a")
        deep.append(x)
        del self.cache["old"]
        self.cache["new"] = self
        self.queue += [3, 4]
        self.names.reverse()
        self.seen.clear()
        return x

    def all_it_holds(self):
        deep = self.cache["deep"]
        tensors = [tensor.tolist() for tensor in (self.weight, self.plain, deep[0]["tensor"])]
        rest = deep[1:], list(deep[0]), list(deep[1][1]), list(self.cache), self.queue, self.names, self.seen
        hooks = [list(self._forward_pre_hooks.values()), list(self._forward_hooks)]
        return copy.deepcopy([tensors, rest]), hooks


@pytest.mark.parametrize("fails", [False, True])
def test_containers_and_what_they_hold_come_back_in_place(fails):
    model = nn.Sequential(Changing(), nn.Sequential(Changing()))
    objects = [
        value
        for module in (model[0], model[1][0])
        for value in (*vars(module).values(), module.weight, *module.cache["deep"], *module.cache["deep"][1])
    ]
    ids, before = [id(value) for value in objects], [model[0].all_it_holds(), model[1][0].all_it_holds()]
    with contextlib.suppress(ZeroDivisionError), tracing.borrowed(model):
        model(torch.ones(1))
        assert model[0].all_it_holds() != before[0]
        model[0].weight.data = torch.zeros(9)
        model.append(nn.ReLU())
        1 / (not fails)
    assert [model[0].all_it_holds(), model[1][0].all_it_holds()] == before
    after = [
        value
        for module in (model[0], model[1][0])
        for value in (*vars(module).values(), module.weight, *module.cache["deep"], *module.cache["deep"][1])
    ]
    assert [id(value) for value in after] == ids
    assert len(model) == 2


def test_tensors_of_other_kinds_are_no_trouble():
    model = nn.Module()
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    model.register_buffer("meta", torch.empty(2, device="meta"))
    model.register_buffer("none", None)
    model.register_buffer("nan", torch.tensor([float("nan")]))
    model.register_buffer("wide", torch.zeros(1).expand(4))
    model.lazy = nn.LazyLinear(3)
    with tracing.borrowed(model):
        model.nan.fill_(0)
    assert model.nan.isnan().all()
    assert list(dict(model.named_buffers())) == ["sparse", "meta", "nan", "wide"]


class Sum(nn.Module):
    def forward(self, left, right, scale=1):
        return (left + right) * scale


def test_several_inputs_are_called_by_place_or_by_name():
    left, right = torch.rand(2, 3), torch.rand(2, 3)
    for example in ((left, right, 2), {"right": right, "scale": 2, "left": left}):
        tracing.check(Sum(), example)
        tracing.run(Sum(), example)
        assert torch.equal(tracing.call(Sum(), example), (left + right) * 2)
    assert torch.equal(tracing.call(nn.Identity(), left), left)


X = torch.rand(2, 3)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        ((), TypeError, r"example is \(\), which holds no tensor; .* or a tuple or dict of tensors"),
        ((1, None), TypeError, r"which holds no tensor"),
        ({1: X}, TypeError, r"keys \[1\]; they must be names of the arguments of forward\(\)"),
        ([X, X], TypeError, r"example is a list; it must be one torch.Tensor .* or a tuple or dict"),
        (torch.Tensor, TypeError, r"example is the class Tensor; it must be"),
        ((X, X[:0]), ValueError, r"example\[1\] has shape \[0, 3\]; it must be \[N, ...\]"),
        ({"left": X, "right": torch.tensor(1.0)}, ValueError, r"example\['right'\] has shape \[\]"),
        ((torch.nested.nested_tensor([X, X[:1]]),), ValueError, r"example\[0\] is nested; it must be \[N, "),
        ((X, X.to("meta")), ValueError, "on the device meta"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_each_tensor_of_several_is_checked(example, error, message):
    with pytest.raises(error, match=message):
        tracing.check(Sum(), example)


@pytest.mark.bad_input
def test_what_several_inputs_were_is_said():
    with pytest.raises(ValueError, match=r"inputs 'left' of shape \[2, 3\], torch.float32, on cpu; 'up' = 2"):
        tracing.run(Sum(), {"left": X, "up": 2})
    with pytest.raises(
        TypeError, match=r"example is a tuple; it must be one torch.Tensor .*rand\(1, 3, 32, 32\)\.$"
    ):
        tracing.check(Sum(), (X, X), one=True)


def scripted(model):
    return torch.jit.script(model)


@pytest.mark.bad_input
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("wrap", "remedy"),
    [
        (nn.DataParallel, r"a DataParallel around .* Pass what it wraps, model\.module"),
        (torch.compile, r"made by torch\.compile.* compiled from, model\._orig_mod"),
        (
            lambda m: nn.Sequential(m, torch.compile(m)),
            r"layer '1' was made by torch\.compile.* in its place",
        ),
        (scripted, r"a TorchScript module.* Pass the network that was scripted or traced"),
        (
            lambda m: torch.jit.trace(m, X),
            r"a TorchScript module.* Pass the network that was scripted or traced",
        ),
    ],
    ids=["parallel", "compiled", "compiled layer", "scripted", "traced"],
)
def test_a_network_inside_of_a_wrapper_is_refused_with_the_way_out(wrap, remedy):
    model = wrap(nn.Linear(3, 4))
    with pytest.raises(TypeError, match=remedy):
        tracing.check(model, X)
    tracing.check(model, X, plain=False)


@pytest.mark.bad_input
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_weight_is_named():
    model = nn.Sequential(nn.Linear(3, 4))
    model[0].weight = nn.Parameter(torch.nested.nested_tensor([X, X[:1]]))
    with pytest.raises(ValueError, match=r"the weight '0\.weight' of the model is a nested tensor"):
        tracing.check(model, X)
