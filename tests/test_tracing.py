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
