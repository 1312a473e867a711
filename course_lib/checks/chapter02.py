"""Checks of the exercises of chapter 02, pruning."""

import copy
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib.checks import call, exercise, expect, judge, passed, ratios


@exercise(
    again="Begin with one vector that holds the magnitudes of all tensors. How many of its entries go, and which come "
    "first when it is sorted?",
    read="Magnitude pruning in a few lines",
)
def check_global_masks(function: Callable[[Sequence[Tensor], float], Sequence[Tensor]]) -> None:
    """Check a learner's `global_masks(weights, sparsity) -> masks`, a bool mask for each weight, True = keep.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_global_masks(lambda weights, sparsity: list(weights))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The masks have dtype torch.float32; a mask is bool, True where the weight stays.
    """
    weights = [
        torch.tensor([[-0.9, 0.1], [0.2, -0.3], [0.1, 0.8]]),
        torch.tensor([2.0, -0.1, -1.0, 0.4]),
    ]
    given = [weight.clone() for weight in weights]
    answer = call(function, weights, 0.4)
    expect(
        isinstance(answer, Sequence) and all(isinstance(mask, Tensor) for mask in answer),
        "Return a list of tensors, one mask for each weight.",
    )
    expect(
        [mask.shape for mask in answer] == [weight.shape for weight in weights],
        f"The masks have the shapes {[list(mask.shape) for mask in answer]}; each must have the shape of its weight, "
        f"{[list(weight.shape) for weight in weights]}.",
    )
    expect(all(map(torch.equal, weights, given)), "The weights were changed. Only say what stays.")
    expect(
        all(mask.dtype == torch.bool for mask in answer),
        f"The masks have dtype {answer[0].dtype}; a mask is bool, True where the weight stays.",
    )

    def masks_for(scores: Sequence[Tensor], count: int) -> list[Tensor]:
        flat = torch.cat([score.flatten() for score in scores])
        keep = torch.ones(len(flat), dtype=torch.bool)
        keep[flat.argsort(stable=True)[:count]] = False
        parts = keep.split([score.numel() for score in scores])
        return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]

    sizes = [weight.abs() for weight in weights]
    right = masks_for(sizes, 4)
    ways = {
        "": lambda weight: weight.abs(),
        "Large negative weights go first: the signs were kept. Rank the magnitudes, abs().": lambda weight: (
            weight
        ),
        "The largest weights go. It is the smallest that go.": lambda weight: -weight.abs(),
    }
    mistakes = []
    for by_score, way in ways.items():
        scores = [way(weight) for weight in weights]
        together = masks_for(scores, 4)
        alone = [masks_for([score], round(0.4 * score.numel()))[0] for score in scores]
        own = "Each weight is ranked on its own. One threshold is meant for all of them together."
        for by_layer, found in (("", together), (own, alone)):
            turned = "The masks are the wrong way round: True is a weight that stays."
            for by_sign, masks in (("", found), (turned, [~mask for mask in found])):
                mistakes.append((masks, " And: ".join(filter(None, (by_score, by_layer, by_sign)))))
    # A single mistake may give the same masks as two others together: it is named first.
    mistakes.sort(key=lambda mistake: mistake[1].count(" And: "))
    _name_mistake(answer, right, mistakes, "sparsity 0.4")
    # The threshold falls among equal magnitudes here, where "all that are not above it" removes too many.
    tied = call(function, weights, 0.2)
    gone = sum(int((~mask).sum()) for mask in tied)
    expect(
        gone == 2,
        f"At sparsity 0.2 {gone} of the 10 weights go; it must be exactly 2. Three have the same magnitude 0.1, so a "
        "comparison with the threshold takes all of them or none. Sort, and take the first 2.",
    )
    expect(
        all(map(torch.equal, tied, masks_for(sizes, 2))),
        "Of three equal weights the wrong two go: those that come first must go. argsort(stable=True) keeps equals in "
        "order.",
    )
    for sparsity, count in ((0.0, 0), (1.0, 10), (0.79, 8)):
        gone = sum(int((~mask).sum()) for mask in call(function, weights, sparsity))
        expect(
            gone == count,
            f"At sparsity {sparsity} {gone} of the 10 weights go; it must be round({sparsity} * 10) = {count}.",
        )
    three = [*weights, torch.tensor([0.05, -3.0])]
    answer = call(function, three, 0.25)
    right = masks_for([weight.abs() for weight in three], 3)
    expect(
        len(answer) == 3 and all(map(torch.equal, answer, right)),
        "With three weights instead of two the masks are wrong. Take as many as the list holds.",
    )
    passed("one threshold for all tensors, the exact number of weights, and ties broken by order.")


@exercise(
    again="With k weights left, how many bytes does CSR take for values, for columns and for rows? Write that down and "
    "compare it with the dense bytes.",
    read="Bytes by hand",
)
def check_csr_limit(function: Callable[..., int]) -> None:
    """Check a learner's `csr_limit(rows, columns, index_bytes=4) -> int`, the most weights with which CSR is smaller.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_csr_limit(lambda rows, columns, index_bytes=4: "7")
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: <lambda> returns '7' (str); a count is a whole number (int).
    """
    shapes = [(10, 16, 4), (64, 64, 2), (1, 1000, 4), (31, 18, 8), (3, 8, 4)]  # in the last both can be equal
    cases = [{"rows": rows, "columns": columns, "index_bytes": size} for rows, columns, size in shapes]

    def limit(
        rows: int, columns: int, index_bytes: int = 4, *, pointers: int | None = None, strict: int = 1
    ) -> int:
        pointers = rows + 1 if pointers is None else pointers
        return max(4 * rows * columns - pointers * index_bytes - strict, 0) // (4 + index_bytes)

    mistakes = [
        (
            lambda **case: limit(**case, pointers=0),
            "The row pointers are missing: CSR also stores where each row starts, and where the last one ends.",
        ),
        (
            lambda **case: limit(**case, pointers=case["rows"]),
            "There is one row pointer more than there are rows: the last one says where the last row ends.",
        ),
        (
            lambda **case: limit(**case, strict=0),
            "With so many weights CSR is as large as dense in one of the cases. Smaller is meant.",
        ),
        (
            lambda index_bytes=4, **case: limit(**case),
            "It is right as long as index_bytes is 4. Column indices and row pointers take index_bytes each.",
        ),
        (
            lambda **case: case["rows"] * case["columns"] - limit(**case),
            "That many must be zero. The question is how many may be left.",
        ),
        (
            lambda **case: limit(**case) + 1,
            "One too many: with that number of weights CSR is no longer smaller than dense.",
        ),
    ]
    judge(function, cases, limit, mistakes)
    passed("each weight left costs its value and its column, each row a pointer, and one more for the end.")


@exercise(
    again="List the indices that stay. Then take one tensor after the other: which of its dimensions counts the "
    "channels between the two convolutions?",
    read="Three ways to apply a mask",
)
def check_remove_filters(
    function: Callable[
        [nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, Sequence[int]],
        tuple[nn.Conv2d, nn.BatchNorm2d, nn.Conv2d],
    ],
) -> None:
    """Check a learner's `remove_filters(conv, bn, following, indices) -> (conv, bn, following)`, the smaller layers.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_remove_filters(lambda conv, bn, following, indices: conv)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Return three layers: (conv, bn, following).
    """
    generator = torch.Generator().manual_seed(3)
    # Nothing as it is by default: a fresh layer of the right size is not the old one made smaller.
    conv = nn.Conv2d(2, 5, 3, stride=2, padding=2)
    bn, following = nn.BatchNorm2d(5, eps=0.1), nn.Conv2d(5, 3, 3, stride=2, padding=1)
    with torch.no_grad():
        for tensor in [*conv.parameters(), *bn.parameters(), *following.parameters(), bn.running_mean]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        bn.running_var.copy_(torch.rand(5, generator=generator) + 0.5)
    layers = [layer.eval() for layer in (conv, bn, following)]
    before = copy.deepcopy([layer.state_dict() for layer in layers])
    gone, kept = [3, 0], [1, 2, 4]
    answer = call(function, *layers, gone)
    expect(
        isinstance(answer, Sequence) and len(answer) == 3 and all(isinstance(x, nn.Module) for x in answer),
        "Return three layers: (conv, bn, following).",
    )
    unchanged = all(
        torch.equal(old[key], value)
        for old, layer in zip(before, layers, strict=True)
        for key, value in layer.state_dict().items()
        if old[key].shape == value.shape
    ) and all(layer.weight.shape == old["weight"].shape for old, layer in zip(before, layers, strict=True))
    expect(unchanged, "The layers that were given have changed. Make new ones, or copy.deepcopy them first.")
    shapes = {
        "conv.weight": (answer[0].weight, conv.weight[kept]),
        "conv.bias": (answer[0].bias, conv.bias[kept]),
        "bn.weight": (answer[1].weight, bn.weight[kept]),
        "bn.bias": (answer[1].bias, bn.bias[kept]),
        "bn.running_mean": (answer[1].running_mean, bn.running_mean[kept]),
        "bn.running_var": (answer[1].running_var, bn.running_var[kept]),
        "following.weight": (answer[2].weight, following.weight[:, kept]),
        "following.bias": (answer[2].bias, following.bias),
    }
    hints = []
    for name, (tensor, wanted) in shapes.items():
        if not isinstance(tensor, Tensor):
            hints.append(f"{name} is {tensor!r:.40}; it must be there, as in the layer given.")
        elif name == "following.weight" and tensor.shape[0] != 3:
            hints.append(
                "The next layer lost filters of its own, dimension 0. It loses what it reads: dimension 1."
            )
        elif name == "conv.weight" and list(tensor.shape) == [5, 1, 3, 3]:
            hints.append("The first weight lost inputs, dimension 1. Its filters are dimension 0.")
        elif tensor.shape != wanted.shape:
            hints.append(
                f"{name} has shape {list(tensor.shape)}; with filters 0 and 3 gone it is {list(wanted.shape)}."
            )
    if isinstance(answer[0].weight, Tensor) and torch.equal(answer[0].weight, conv.weight[sorted(gone)]):
        hints = ["The filters in `indices` are the ones that are left. They are the ones that go."]
    expect(not hints, " And: ".join(hints[:3]))
    for name, (tensor, wanted) in shapes.items():
        expect(
            torch.allclose(tensor, wanted),
            f"{name} has the right shape and wrong numbers. Copy those of the channels that stay: 1, 2 and 4.",
        )
    image = torch.randn(2, 2, 6, 6, generator=generator)
    silenced = copy.deepcopy(following)
    with torch.no_grad():
        silenced.weight[:, gone] = 0
        wanted = silenced(bn(conv(image)))
        try:
            result = answer[2].eval()(answer[1].eval()(answer[0].eval()(image)))
        except Exception as error:
            expect(False, f"The three layers do not run one after the other: {type(error).__name__}: {error}")
    expect(
        result.shape == wanted.shape and torch.allclose(result, wanted, atol=1e-4),
        "The weights are right, the output is not: the layers must keep the stride, padding and eps of the old ones.",
    )
    sizes = (answer[0].out_channels, answer[1].num_features, answer[2].in_channels)
    said = f"out_channels, num_features and in_channels say {sizes}; the layers have 3 channels now."
    expect(sizes == (3, 3, 3), said + " Say so, or the next program that reads them is wrong.")
    given, theirs = (
        {t.data_ptr() for one in some for t in one.state_dict().values()} for some in (layers, answer)
    )
    expect(
        not given & theirs,
        "A new layer shares a tensor with an old one, so training one changes the other. Copy it, with clone() or "
        "copy.deepcopy.",
    )
    without_bias = [nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1)]
    expect(
        call(function, *without_bias, [1])[0].bias is None,
        "A convolution without bias must stay without: `if conv.bias is not None`.",
    )
    passed("filter, bias, batch norm with its statistics, and the next layer's kernels go together.")


@exercise(
    again="Take one layer by hand first: which of its rows lose at most the tolerance, and what if none does?",
    read="Which layer bears how much?",
)
def check_choose_sparsities(function: Callable[[pd.DataFrame, float, float], Mapping[str, float]]) -> None:
    """Check a learner's `choose_sparsities(scan, baseline, tolerance) -> {layer: sparsity}`.

    `scan` has the columns layer, sparsity, validation and test.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_choose_sparsities(lambda scan, baseline, tolerance: list(scan["layer"]))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Return a dict {layer: sparsity}, not a list.
    """
    rows = [
        # layer, validation at 50, 70 and 90 %, test at the same
        ("first", (0.74, 0.70, 0.40), (0.74, 0.74, 0.74)),
        ("better", (0.95, 0.95, 0.60), (0.95, 0.60, 0.60)),  # gains more than the tolerance
        ("middle", (0.76, 0.76, 0.75), (0.74, 0.40, 0.40)),
        ("last", (0.625, 0.50, 0.30), (0.74, 0.74, 0.50)),  # loses exactly the tolerance at 50 %
        ("fragile", (0.50, 0.40, 0.20), (0.74, 0.40, 0.20)),
    ]
    scan = pd.DataFrame(
        [
            {"layer": layer, "sparsity": sparsity, "validation": v, "test": e}
            for layer, validation, test in rows
            for sparsity, v, e in zip((0.5, 0.7, 0.9), validation, test, strict=True)
        ]
    )
    answer = call(function, scan.sample(frac=1, random_state=0), 0.75, 0.125)
    expect(isinstance(answer, Mapping), f"Return a dict {{layer: sparsity}}, not a {type(answer).__name__}.")
    chosen = {str(layer): round(float(sparsity), 6) for layer, sparsity in answer.items()}

    def largest(column: str, least: float) -> dict[str, float]:
        fits = scan[scan[column] >= least]
        return fits.groupby("layer")["sparsity"].max().to_dict()

    every = dict.fromkeys(scan["layer"], 0.0)
    mistakes = [
        (
            every | largest("test", 0.625),
            "These are chosen on the test split. Test data never chooses: use validation.",
        ),
        (
            largest("validation", 0.625),
            "A layer that bears none of the sparsities is missing. It is not pruned: 0.0.",
        ),
        (
            every | largest("validation", 0.75),
            "No loss at all is allowed here. The accuracy may fall by `tolerance`.",
        ),
        (
            every | largest("validation", 0.626),
            "A loss of exactly `tolerance` is allowed: compare with >=.",
        ),
        (
            every | scan[scan["validation"] >= 0.625].groupby("layer")["sparsity"].min().to_dict(),
            "These are the smallest sparsities that a layer bears. Take the largest.",
        ),
    ]
    near = scan[(scan["validation"] - 0.75).abs() <= 0.125]
    mistakes.append(
        (
            every | near.groupby("layer")["sparsity"].max().to_dict(),
            "A layer that gains accuracy is treated as one that loses it: only a fall counts, without abs().",
        )
    )
    right = every | largest("validation", 0.625)
    for wrong, hint in mistakes:
        expect(chosen != wrong, hint)
    expect(chosen == right, f"Not right yet: for this scan it is {right}, and you return {chosen}.")
    passed("each layer gets the largest sparsity that it bears, and validation decides.")


@exercise(
    again="Which layer holds half of all weights, and what does the scan say it bears? Give that one its ratio "
    "first, and see what is left to be taken from the others.",
    read="Which layer bears how much?",
)
def check_my_ratios(function: Callable[[Mapping[str, int]], Mapping[str, float]]) -> None:
    """Check a learner's `my_ratios(sizes) -> {layer: share that goes}`: pruned by magnitude and tuned, small and good.

    Raises:
        NotYet: too many bytes, too much accuracy lost, or no ratios; the message says by how much.

    Example:
        >>> check_my_ratios(lambda sizes: dict.fromkeys(sizes, 0.5))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: 53.4% of the bytes are left, and 25% may be. More weights have to go.
    """
    answer, most = call(function, ratios.sizes()), ratios.MOST_BYTES
    ratios.check(answer)
    left = ratios.weighed(answer)
    expect(left <= most, f"{left:.1%} of the bytes are left, and {most:.0%} may be. More weights have to go.")
    lost = ratios.outcome(answer).lost
    expect(
        lost <= ratios.MOST_LOSS,
        f"Tuned, the network loses {lost:.1%} of the validation images; {ratios.MOST_LOSS:.0%} may be lost. "
        + ratios.advice(answer),
    )
    passed(f"at most {most:.0%} of the bytes, and at most one point lost on the validation images.")


def _name_mistake(
    answer: Sequence[Tensor],
    right: Sequence[Tensor],
    mistakes: Sequence[tuple[Sequence[Tensor], str]],
    case: str,
) -> None:
    """Accept `right`; name the mistake whose masks the answer is."""
    if all(map(torch.equal, answer, right)):
        return
    for wrong, hint in mistakes:
        expect(not all(map(torch.equal, answer, wrong)), hint)
    gone = sum(int((~mask).sum()) for mask in answer)
    wanted = sum(int((~mask).sum()) for mask in right)
    expect(
        False,
        f"Not right yet: at {case} {gone} weights go where {wanted} should, or others than the smallest.",
    )
