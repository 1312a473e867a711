"""Scores from gradients: against autograd image by image, against the true Hessian, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.pruning import fisher_diagonal, freeze, obd_scores, taylor_scores


def network(seed=0):
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(3 * 4 * 4, 4),
    )
    made[1].running_mean.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return made.double()


def some(count=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 6, 6, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, 4, (count,), generator=generator)


def image_by_image(model, images, labels, of_image):
    """The mean over images, with one backward pass for each."""
    model = copy.deepcopy(model).eval()
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    sums = {name: torch.zeros_like(p) for name, p in weights.items()}
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        for (name, weight), gradient in zip(
            weights.items(), torch.autograd.grad(loss, weights.values()), strict=True
        ):
            sums[name] += of_image(weight.detach(), gradient)
    return {name: total / len(images) for name, total in sums.items()}


RULES = {
    "taylor": (taylor_scores, lambda w, g: (w * g).abs()),
    "fisher": (fisher_diagonal, lambda w, g: g**2),
    "obd": (obd_scores, lambda w, g: g**2 * w**2 / 2),
}


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(RULES)), st.integers(1, 9), st.integers(1, 10), st.integers(0, 3))
def test_scores_are_means_over_single_images_whatever_the_chunk(rule, count, chunk, seed):
    function, of_image = RULES[rule]
    model, (images, labels) = network(seed).train(), some(count)
    found = function(model, images, labels, chunk=chunk)
    wanted = image_by_image(model, images, labels, of_image)
    assert list(found) == ["0.weight", "5.weight"]
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name])
        assert not value.requires_grad


def test_the_model_is_left_as_it_was():
    model, (images, labels) = network().train(), some()
    before = copy.deepcopy(model.state_dict())
    taylor_scores(model, images, labels)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_where_labels_are_as_likely_as_the_network_says_the_fisher_is_the_hessian():
    """One logit for each weight, labels in the proportions of the softmax: there the two agree."""
    layer = nn.Linear(1, 2, bias=False).double()
    layer.weight.data = torch.tensor([[0.0], [torch.tensor(3.0).log()]], dtype=torch.float64)  # 1 : 3
    images, labels = torch.ones(4, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 1])
    hessian = torch.func.hessian(lambda w: F.cross_entropy(images @ w.T, labels))(layer.weight.detach())
    diagonal = torch.stack([hessian[0, 0, 0, 0], hessian[1, 0, 1, 0]])[:, None]
    torch.testing.assert_close(fisher_diagonal(layer, images, labels)["weight"], diagonal)


def test_a_weight_that_nothing_reads_has_no_score_however_large_it_is():
    model, (images, labels) = network(), some()
    with torch.no_grad():
        model[0].weight[1] = 100.0
        model[1].weight[1] = 0.0  # the batch norm of that filter hands on a constant
    for function in (taylor_scores, obd_scores):
        scores = function(model, images, labels)["0.weight"]
        assert scores[1].max() == 0 < scores[0].max()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "vgg"}, TypeError, "model is a str"),
        ({"model": nn.BatchNorm1d(3)}, ValueError, "no weights of two or more dimensions"),
        ({"images": [1.0]}, TypeError, "images is a list"),
        ({"images": torch.zeros(0, 1, 6, 6)}, ValueError, "holds nothing"),
        ({"images": torch.zeros(7, 1, 6, 6, dtype=torch.uint8)}, TypeError, r"images has dtype torch.uint8"),
        ({"images": torch.full((7, 1, 6, 6), float("nan")).double()}, ValueError, "not finite"),
        ({"labels": torch.zeros(7)}, TypeError, "labels has dtype torch.float32"),
        ({"labels": torch.zeros(6, dtype=torch.int64)}, ValueError, r"must be \[7\]"),
        ({"chunk": 0}, ValueError, "chunk is 0"),
        ({"chunk": 2.0}, TypeError, r"chunk is 2.0 \(float\)"),
    ],
)
def test_bad_input_is_named(change, error, message):
    images, labels = some()
    given = {"model": network(), "images": images, "labels": labels, "chunk": 4} | change
    for function, _ in RULES.values():
        with pytest.raises(error, match=message):
            function(**given)


@pytest.mark.bad_input
def test_a_frozen_model_is_refused():
    model, (images, labels) = network(), some()
    freeze(model, {"5.weight": model[5].weight > 0})
    with pytest.raises(ValueError, match=r"frozen.*Call make_permanent first"):
        taylor_scores(model, images, labels)
