"""A borrowed network comes back as it was."""

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
