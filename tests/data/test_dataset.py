import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.data import Split, to_float
from course_lib.data.dataset import cut_validation


def numbered(count):
    """A split whose images and labels carry their own index."""
    index = torch.arange(count)
    return Split(index.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2), index)


def test_to_float_maps_0_and_255_to_the_ends_of_the_unit_interval():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    mapped = to_float(images)
    assert mapped.dtype == torch.float32
    assert mapped.shape == images.shape
    assert torch.equal(mapped.flatten(), torch.tensor([0, 51 / 255, 1]))
    assert images.flatten().tolist() == [0, 51, 255]


@pytest.mark.bad_input
def test_to_float_refuses_images_that_were_mapped_before():
    with pytest.raises(
        TypeError, match=r"dtype torch\.float32; to_float takes uint8 images, and takes them once"
    ):
        to_float(to_float(torch.zeros(1, 1, 2, 2, dtype=torch.uint8)))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), TypeError, "float32"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32), TypeError, "int32"),
        (
            torch.zeros(2, 4, 4, dtype=torch.uint8),
            torch.zeros(2, dtype=torch.int64),
            ValueError,
            r"\[2, 4, 4\]",
        ),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), ValueError, r"\[3\]"),
        (
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            torch.zeros(2, 1, dtype=torch.int64),
            ValueError,
            r"\[2, 1\]",
        ),
    ],
)
def test_a_split_refuses_other_types_and_shapes(images, labels, error, message):
    with pytest.raises(error, match=message):
        Split(images, labels)


def test_a_subset_keeps_the_order_asked_for_and_pairs_images_with_labels():
    split = numbered(6)
    assert len(split) == 6
    picked = split.subset(torch.tensor([4, 1]))
    assert picked.labels.tolist() == [4, 1]
    assert picked.images[:, 0, 0, 0].tolist() == [4, 1]
    assert split.subset(split.labels > 3).labels.tolist() == [4, 5]


@given(st.integers(2, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_the_validation_cut_takes_every_image_exactly_once_and_keeps_the_order(sizes):
    total, count = sizes
    train, validation = cut_validation(numbered(total), count)
    assert len(validation) == count
    assert sorted(train.labels.tolist() + validation.labels.tolist()) == list(range(total))
    for part in (train, validation):
        assert part.labels.tolist() == sorted(part.labels.tolist())
        assert part.images[:, 0, 0, 0].tolist() == part.labels.tolist()


def test_the_validation_cut_is_the_same_everywhere():
    assert cut_validation(numbered(20), 5)[1].labels.tolist() == [4, 10, 12, 14, 18]
