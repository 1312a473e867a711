"""A teacher's answers in a file: what it says, for which images, and every way in which a file can be wrong."""

import json
import struct

import pytest
import safetensors.torch
import torch
from torch import nn

from course_lib import training
from course_lib.distillation import TopK, cache, distillation_loss, top_k, top_k_loss


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(16, 6),
    )


@pytest.fixture
def images():
    return torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, TopK):
        assert (one.temperature, one.classes) == (other.temperature, other.classes)
        pairs = [(getattr(one, name), getattr(other, name)) for name in ("values", "indices", "rest")]
    else:
        pairs = [(one, other)]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


# Asking


@pytest.mark.parametrize("batch_size", [3, 10, 1000])
def test_the_answers_are_those_of_predict_whatever_the_batch(teacher, images, batch_size):
    torch.testing.assert_close(
        cache.ask(teacher, images, batch_size=batch_size), training.predict(teacher, images, batch_size=4)
    )


def test_the_k_largest_are_those_of_the_whole(teacher, images):
    whole = cache.ask(teacher, images)
    assert_same(cache.ask(teacher, images, k=2, temperature=4), top_k(whole, 2, temperature=4.0))


def test_images_that_are_numbers_already_are_passed_on(teacher, images):
    assert_same(cache.ask(teacher, images.float() / 255), cache.ask(teacher, images))
    assert_same(
        cache.ask(teacher.double(), images.double() / 255, dtype="float16").float(),
        cache.ask(teacher, images.double() / 255).half().float(),
    )


def test_the_teacher_is_left_as_it_was(teacher, images):
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    before = torch.random.get_rng_state()
    cache.ask(teacher, images)
    assert teacher.training
    assert all(layer.training for layer in teacher)
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_answers_may_be_kept_in_half_precision(teacher, images, dtype):
    whole, kept = cache.ask(teacher, images), cache.ask(teacher, images, dtype=dtype)
    assert torch.equal(kept, whole.to(getattr(torch, dtype)))
    few = cache.ask(teacher, images, k=2, temperature=4, dtype=dtype)
    assert few.values.dtype == few.rest.dtype == kept.dtype


def test_answers_for_pixels(images):
    segmenter = nn.Conv2d(1, 5, 3)
    few = cache.ask(segmenter, images, k=2, temperature=4, batch_size=3)
    assert few.values.shape == (10, 2, 2, 2)
    assert few.classes == 5
    assert cache.ask(segmenter, images).shape == (10, 5, 2, 2)


# There and back


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"k": 2, "temperature": 4.0}, {"k": 6, "temperature": 2.5}])
def test_what_is_saved_is_loaded(tmp_path, teacher, images, options, dtype):
    answers = cache.ask(teacher, images, dtype=dtype, **options)
    path = cache.save(tmp_path / "teacher.safetensors", answers, images)
    assert_same(cache.load(path, images, classes=6), answers)
    assert [file.name for file in tmp_path.iterdir()] == ["teacher.safetensors"]


def test_answers_for_pixels_are_saved_and_loaded(tmp_path, images):
    for options in ({}, {"k": 2, "temperature": 4.0}):
        answers = cache.ask(nn.Conv2d(1, 5, 3), images, **options)
        assert_same(cache.load(cache.save(tmp_path / "t", answers, images), images, classes=5), answers)


def test_a_student_learns_from_the_file_as_from_the_teacher(tmp_path, teacher, images):
    student, labels = torch.randn(10, 6), torch.arange(10) % 6
    logits = training.predict(teacher, images)
    chosen = torch.tensor([7, 0, 3])
    for options, loss in (
        (
            {},
            lambda answers: distillation_loss(
                student[chosen], answers, labels[chosen], temperature=4.0, alpha=0.1
            ),
        ),
        (
            {"k": 6, "temperature": 4},
            lambda answers: top_k_loss(student[chosen], answers, labels[chosen], alpha=0.1),
        ),
    ):
        path = cache.save(tmp_path / "t", cache.ask(teacher, images, **options), images)
        expected = distillation_loss(
            student[chosen], logits[chosen], labels[chosen], temperature=4.0, alpha=0.1
        )
        torch.testing.assert_close(loss(cache.load(path, images)[chosen]), expected)


def test_the_metadata_says_what_the_file_holds(tmp_path, teacher, images):
    answers = cache.ask(teacher, images, k=2, temperature=4, dtype="float16")
    with safetensors.safe_open(cache.save(tmp_path / "t", answers, images), framework="pt") as stream:
        about = json.loads(stream.metadata()["teacher_logits"])
    assert about.pop("content")
    assert about == {
        "version": 1, "k": 2, "classes": 6, "temperature": 4.0, "dtype": "float16", "images": cache.digest(images),
    }  # fmt: skip


def test_the_same_answers_are_the_same_bytes(tmp_path, teacher, images):
    answers = cache.ask(teacher, images)
    one, two = (cache.save(tmp_path / name, answers, images) for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_the_file_of_few_answers_is_smaller(tmp_path):
    images, logits = torch.rand(500, 3), torch.randn(500, 100)
    sizes = [
        cache.save(tmp_path / "t", answers, images).stat().st_size
        for answers in (logits, top_k(logits, 4, temperature=4.0))
    ]
    assert sizes[0] >= 500 * 400
    assert sizes[1] <= 500 * (4 * 4 + 4 * 4 + 4) + 1000


# Digests


def test_a_digest_is_of_the_values_and_not_of_how_they_lie():
    images = torch.rand(3, 2, 4, 4)
    same = (
        images.clone(),
        images.to(memory_format=torch.channels_last),
        torch.cat([images, images])[:3],
        images.flip(0).flip(0),
        images.clone().requires_grad_(),
    )
    assert {cache.digest(other) for other in same} == {cache.digest(images)}


def test_a_digest_tells_images_apart():
    images = torch.rand(2500, 2, 3)
    changed = images.clone()
    changed[2499, 1, 2] += 1e-7 * (1 + changed[2499, 1, 2])
    others = (
        images.flip(0),
        images[:-1],
        images.reshape(2500, 3, 2),
        images.double(),
        images.half(),
        changed,
    )
    assert len({cache.digest(other) for other in (images, *others)}) == 1 + len(others)


# Files that are wrong


@pytest.fixture
def written(tmp_path, teacher, images):
    return cache.save(tmp_path / "t", cache.ask(teacher, images, k=2, temperature=4), images)


@pytest.mark.parametrize("options", [{}, {"k": 2, "temperature": 4}])
def test_no_damaged_file_is_read(tmp_path, teacher, images, options):
    """Every byte of the file in turn, cut off from there or flipped, is noticed: none gives other answers."""
    path = cache.save(tmp_path / "t", cache.ask(teacher, images[:2], **options), images[:2])
    whole = path.read_bytes()
    answers = cache.load(path, images[:2])
    for place in range(0, len(whole), 3):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]):
            path.write_bytes(content)
            found = load_or_error(path, images[:2])
            if isinstance(found, ValueError):
                assert str(path) in str(found)
            else:  # a byte that says nothing
                assert_same(found, answers)


def load_or_error(path, images):
    try:
        return cache.load(path, images)
    except ValueError as error:
        return error


def test_trailing_bytes_are_damage(written, images):
    written.write_bytes(written.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="is damaged, or not a safetensors file"):
        cache.load(written, images)


def rewritten(path, **changes):
    """The file with other metadata, as another program might write it."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["teacher_logits"]) | changes
    header["__metadata__"]["teacher_logits"] = json.dumps(about)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    return path


@pytest.mark.parametrize(
    "changes", [{"temperature": 5.0}, {"classes": 7}, {"k": 3}, {"images": "0" * 64}, {"content": ""}]
)
def test_metadata_that_was_changed_is_damage(written, images, changes):
    assert_same(cache.load(rewritten(written), images), cache.load(written, images))
    with pytest.raises(ValueError, match="is damaged: its content has not the digest that it states"):
        cache.load(rewritten(written, **changes), images)


def test_another_version_is_named(written, images):
    with pytest.raises(ValueError, match="is of version 2; this library reads version 1"):
        cache.load(rewritten(written, version=2), images)


@pytest.mark.parametrize(
    "others",
    [
        lambda i: i.flip(0),
        lambda i: i[:9],
        lambda i: i.float(),
        lambda i: i.reshape(10, 1, 2, 8),
        lambda i: 255 - i,
    ],
    ids=["order", "fewer", "dtype", "shape", "values"],
)
def test_other_images_are_refused(written, images, others):
    with pytest.raises(ValueError, match="was written for other images than these"):
        cache.load(written, others(images))


def test_other_classes_are_refused(written, images):
    with pytest.raises(ValueError, match="holds answers in 6 classes, and classes is 10"):
        cache.load(written, images, classes=10)


def test_files_of_something_else_are_refused(tmp_path, images):
    path = tmp_path / "t"
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(ValueError, match="is damaged, or not a safetensors file"):
        cache.load(path, images)
    safetensors.torch.save_file({"logits": torch.zeros(10, 6)}, path)
    with pytest.raises(ValueError, match=r"holds no teacher's answers. Give a file that cache\.save wrote"):
        cache.load(path, images)
    for text in ("{", "[]", "7", "{}"):
        safetensors.torch.save_file({"logits": torch.zeros(10, 6)}, path, metadata={"teacher_logits": text})
        with pytest.raises(ValueError, match=r"the metadata of .* is damaged"):
            cache.load(path, images)
    with pytest.raises(FileNotFoundError):
        cache.load(tmp_path / "missing", images)


def test_a_file_that_could_not_be_written_leaves_the_earlier_one(written, images, monkeypatch):
    before = written.read_bytes()

    def fails(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise RuntimeError("interrupted")

    monkeypatch.setattr(safetensors.torch, "save_file", fails)
    with pytest.raises(RuntimeError, match="interrupted"):
        cache.save(written, torch.zeros(10, 6), images)
    assert written.read_bytes() == before
    assert [file.name for file in written.parent.iterdir()] == [written.name]
