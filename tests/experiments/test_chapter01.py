"""What chapter 01 measures with: its losses, its controls, its views of an image, and the method on its page."""

import pandas as pd
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_lib import distillation
from course_lib.data import augment
from course_lib.experiments import chapter01, chapter01_networks
from course_lib.experiments.chapter01 import DEFAULTS, LOSSES, loss_of


def logits(seed=0, count=12, classes=10):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, count, classes, generator=generator)
    return student, teacher, torch.randint(0, classes, (count,), generator=generator)


def run(**changes):
    return {**DEFAULTS, "teacher": "any", **changes}


# The losses


@given(st.sampled_from([1, 4, 8, 20]), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 9))
def test_the_right_loss_is_that_of_the_library(temperature, alpha, seed):
    student, teacher, labels = logits(seed)
    ours = loss_of(run(temperature=temperature, alpha=alpha))(student, teacher, labels)
    library = distillation.distillation_loss(student, teacher, labels, temperature=temperature, alpha=alpha)
    torch.testing.assert_close(ours, library)


def test_each_bug_is_the_bug_that_its_name_says():
    student, teacher, labels = logits()
    T, alpha = 8, 0.5
    log_x, x, y = F.log_softmax(student / T, 1), F.softmax(student / T, 1), F.softmax(teacher / T, 1)
    right = F.kl_div(log_x, y, reduction="batchmean")
    wrong = F.kl_div(x, y, reduction="batchmean")
    soft = {
        "right": T**2 * right,
        "probabilities": T**2 * wrong,
        "probabilities, no T²": wrong,
        "no T²": right,
        "mean": T**2 * right / 10,
        "no T², mean": right / 10,
        "teacher in train mode": T**2 * right,  # the loss is right, and the teacher is not
    }
    assert set(soft) == set(LOSSES)
    for name, term in soft.items():
        ours = loss_of(run(temperature=T, alpha=alpha, loss=name))(student, teacher, labels)
        torch.testing.assert_close(ours, alpha * F.cross_entropy(student, labels) + (1 - alpha) * term)


def test_a_student_alone_pays_for_labels_with_its_smoothing():
    student, _, labels = logits()
    ours = loss_of({**DEFAULTS, "smoothing": 0.1})(student, torch.zeros(12, 1), labels)
    torch.testing.assert_close(ours, F.cross_entropy(student, labels, label_smoothing=0.1))
    assert ours != F.cross_entropy(student, labels)


def test_the_gradient_by_autograd_is_t_times_the_difference_of_the_softened_over_the_batch():
    student, teacher, _ = logits()
    by_hand = 4 * (F.softmax(student / 4, 1) - F.softmax(teacher / 4, 1)) / 12
    torch.testing.assert_close(chapter01.by_autograd(student, teacher, 4.0), by_hand)


# Teachers


def test_a_teacher_is_asked_in_eval_mode_without_gradient():
    teacher = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    images = torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2)
    before = teacher[1].running_mean.clone()
    answers = chapter01.ask(teacher, images)
    assert answers.shape == (6, 3)
    assert not answers.requires_grad
    assert torch.equal(teacher[1].running_mean, before)
    torch.testing.assert_close(chapter01.ask(teacher, images[:1]), answers[:1])  # whatever its neighbours are


def test_a_teacher_in_train_mode_drifts_and_looks_at_the_neighbours():
    teacher = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4))
    images = torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2)
    before = teacher[1].running_mean.clone()
    asked = chapter01.AskedInTrainMode(teacher, images)
    assert not torch.allclose(asked[torch.tensor([0, 1])][0], asked[torch.tensor([0, 5])][0])
    assert not torch.equal(teacher[1].running_mean, before)


# Views


def test_the_views_are_the_shifts_that_augmentation_draws_from():
    images = torch.randint(1, 255, (1, 1, 16, 16), dtype=torch.uint8)
    views, labels = chapter01.shifted(images, torch.tensor([7]))
    assert torch.equal(views[12:13], images)  # the middle one is the image itself
    assert labels.tolist() == [7] * 25
    ours = {view.numpy().tobytes() for view in views}
    generator = torch.Generator().manual_seed(0)
    drawn = augment(images.float().expand(2000, -1, -1, -1), "shift", generator).to(torch.uint8)
    assert {view.numpy().tobytes() for view in drawn} == ours
    assert len(ours) == 25


# Controls: what says less than the teacher


def test_what_stands_in_the_place_of_the_teachers_answers():
    _, teacher, labels = logits(count=40, classes=4)
    means = chapter01_networks.instead("class means", teacher, labels)
    shuffled = chapter01_networks.instead("shuffled within class", teacher, labels)
    for label in labels.unique():
        own = labels == label
        torch.testing.assert_close(means[own], teacher[own].mean(0).expand(int(own.sum()), 4))
        assert torch.equal(shuffled[own].sort(0).values, teacher[own].sort(0).values)
    assert (shuffled != teacher).any(1).sum() > 20  # most images have another one's answer
    first = chapter01_networks.instead("argmax", teacher, labels)
    assert torch.equal(F.softmax(first / 8, 1), F.one_hot(teacher.argmax(1), 4).float())


def test_the_loss_of_each_method_has_its_own_term():
    student, teacher, labels = logits()
    generator = torch.Generator().manual_seed(1)
    maps, taught = (
        torch.rand(12, 32, 4, 4, generator=generator),
        torch.rand(12, 128, 4, 4, generator=generator),
    )
    adapter = distillation.hint_adapter(32, 128)
    classic = distillation.distillation_loss(student, teacher, labels, temperature=4, alpha=0.1)
    hard = F.cross_entropy(student, labels)
    wanted = {
        ("alone", 0.0): hard,
        ("classic", 8.0): distillation.distillation_loss(student, teacher, labels, temperature=8, alpha=0.1),
        ("decoupled", 2.0): hard
        + distillation.decoupled_loss(student, teacher, labels, temperature=4.0, beta=2.0),
        ("hint", 0.5): classic + 0.5 * distillation.hint_loss(maps, taught, adapter),
        ("attention", 3.0): classic + 3 * distillation.attention_loss(maps, taught),
    }
    assert {method for method, _ in wanted} == set(chapter01_networks.METHODS)
    for (method, weight), value in wanted.items():
        ours = chapter01_networks.feature_loss(
            {"method": method, "weight": weight}, student, maps, teacher, taught, labels, adapter
        )
        torch.testing.assert_close(ours, value)


# The method on the page


def test_the_loop_learns_from_targets_and_shows_itself_after_each_epoch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (64, 1, 4, 4), dtype=torch.uint8, generator=generator)
    targets = F.one_hot((images.flatten(1)[:, 0] > 127).long(), 2).float() * 8
    student, seen = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), []
    labels = torch.zeros(64, dtype=torch.int64)  # wrong on purpose: the loss looks at the targets alone
    loss = loss_of(run(alpha=0.0, temperature=1))
    chapter01.train_student(
        student,
        images,
        labels,
        targets,
        loss,
        epochs=60,
        rate=0.1,
        watch=lambda epoch, network: seen.append(epoch),
    )
    right = (chapter01.ask(student, images).argmax(1) == targets.argmax(1)).float().mean()
    assert seen == list(range(60))
    assert right > 0.9  # labels alone would lead to a half


def test_the_choice_is_the_best_mean_on_validation():
    rows = [
        {"rate": rate, "seed": seed, "validation": value, "test": 1 - value}
        for rate, values in ((0.1, (0.9, 0.1, 0.2)), (0.2, (0.7, 0.6, 0.7)))
        for seed, value in enumerate(values)
    ]
    assert chapter01.choose(pd.DataFrame(rows), ["rate"]) == {"rate": 0.2}
