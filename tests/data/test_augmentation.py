"""Augmentation: each image moves by an amount of its own, pixel for pixel."""

import pytest
import torch

from course_lib.data import augment


def shifted(image, down, right):
    """By hand, pixel for pixel: what the window sees when it moves down and right over a black surround."""
    result = torch.zeros_like(image)
    height, width = image.shape[1:]
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                result[:, row, column] = image[:, row + down, column + right]
    return result


def moves_of(image, result):
    """The (mirrored, down, right) that turn `image` into `result`; noise images allow at most one."""
    return [
        (mirrored, down, right)
        for mirrored in (False, True)
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
        if torch.equal(shifted(image.flip(2) if mirrored else image, down, right), result)
    ]


@pytest.mark.parametrize("kind", ["shift", "shift_flip"])
def test_every_image_is_shifted_by_an_amount_of_its_own_and_all_amounts_occur(kind):
    images = torch.rand(150, 2, 8, 8)
    before = images.clone()
    result = augment(images, kind, torch.Generator().manual_seed(3))
    moves = [moves_of(image, moved) for image, moved in zip(images, result, strict=True)]
    assert all(len(found) == 1 for found in moves)  # exact pixels, zeros at the edge, channels together
    seen = {found[0] for found in moves}
    assert {move[1:] for move in seen} == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    mirrored = sum(found[0][0] for found in moves)
    assert 50 <= mirrored <= 100 if kind == "shift_flip" else mirrored == 0
    assert torch.equal(images, before)


@pytest.mark.parametrize(("height", "width"), [(4, 24), (24, 8), (8, 16)])
@pytest.mark.parametrize("kind", ["shift", "shift_flip"])
def test_each_direction_is_shifted_by_up_to_an_eighth_of_its_own_size(height, width, kind):
    image = torch.arange(1.0, height * width + 1).reshape(
        1, height, width
    )  # a pixel's number says where it was
    result = augment(image.expand(60, 1, height, width), kind, torch.Generator().manual_seed(1))
    amounts = set(), set()
    for moved in result:
        first, second = moved[0, height // 2, width // 2 - 1 : width // 2 + 1].int().tolist()
        flipped = moved.flip(2) if second < first else moved
        row, column = divmod(int(flipped[0, height // 2, width // 2]) - 1, width)
        down, right = row - height // 2, column - width // 2
        assert torch.equal(flipped, shifted(image, down, right))
        amounts[0].add(down)
        amounts[1].add(right)
    for seen, size in zip(amounts, (height, width), strict=True):
        reach = max(1, size // 8)
        assert seen == set(range(-reach, reach + 1))


def test_the_generator_alone_decides_the_augmentation():
    images = torch.rand(20, 1, 8, 8)
    torch.manual_seed(1)
    first = augment(images, "shift_flip", torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    again = augment(images, "shift_flip", torch.Generator().manual_seed(5))
    other = augment(images, "shift_flip", torch.Generator().manual_seed(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_augmentation_returns_the_images_themselves():
    images = torch.rand(2, 1, 8, 8)
    assert augment(images, "none", torch.Generator()) is images


@pytest.mark.bad_input
def test_an_unknown_augmentation_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"augment 'shift_flop'\. Did you mean 'shift_flip'"):
        augment(torch.rand(2, 1, 8, 8), "shift_flop", torch.Generator())
