"""n of every m: exactly so many in each group, the largest of them, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.pruning import magnitude_mask, n_of_m_mask

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int64]


@settings(max_examples=80)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.sampled_from(DTYPES), st.data())
def test_in_each_group_exactly_so_many_stay_and_they_are_the_largest(filters, groups, of, dtype, data):
    keep = data.draw(st.integers(0, of))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    weight = torch.randint(0, 4, (filters, groups * of), generator=generator).to(dtype)  # many ties
    if dtype != torch.uint8:
        weight = weight * torch.randint(0, 2, weight.shape, generator=generator).mul(2).sub(1).to(dtype)
    before = weight.clone()
    mask = n_of_m_mask(weight, keep=keep, of=of)
    assert mask.dtype == torch.bool
    assert mask.shape == weight.shape
    assert torch.equal(weight, before)
    for row, stays in zip(weight.reshape(-1, of), mask.reshape(-1, of), strict=True):
        assert torch.equal(stays, magnitude_mask(row, 1 - keep / of)), (row, stays)


def test_groups_run_along_the_flattened_inputs_of_a_filter():
    weight = torch.arange(1.0, 17).reshape(2, 2, 2, 2)  # two filters of eight inputs
    mask = n_of_m_mask(weight)
    assert mask.flatten(1).int().tolist() == [[0, 0, 1, 1, 0, 0, 1, 1]] * 2
    assert n_of_m_mask(weight, keep=1, of=8).flatten(1).int().tolist() == [[0, 0, 0, 0, 0, 0, 0, 1]] * 2


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("weight", "options", "error", "message"),
    [
        ([[1.0]], {}, TypeError, "weight is a list"),
        (torch.ones(4), {}, ValueError, r"shape \[4\].*Leave it whole"),
        (torch.ones(2, 6), {}, ValueError, "6 inputs for each output, which is no multiple of 4"),
        (torch.ones(4, 3), {}, ValueError, "3 inputs"),  # twelve weights, and no group may cross a filter
        (torch.full((1, 4), float("nan")), {}, ValueError, "NaN"),
        (torch.ones(2, 4), {"keep": 5}, ValueError, "keep is 5"),
        (torch.ones(2, 4), {"keep": 2.0}, TypeError, "keep is 2.0"),
        (torch.ones(2, 4), {"of": 0}, ValueError, "of is 0"),
    ],
)
def test_bad_input_is_named(weight, options, error, message):
    with pytest.raises(error, match=message):
        n_of_m_mask(weight, **options)
