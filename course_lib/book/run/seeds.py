"""Seeds of a sweep: read from a text, written as one, and checked for runs that they share."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from course_lib.book import CourseError

_LARGEST = 2**32 - 1  # seed that NumPy's old generators accept, which some code still uses
_MOST = 10_000  # seeds of one sweep; a slip of the finger asks for more


def parse_seeds(text: str) -> list[int]:
    """Read the seeds of a text such as "0-9" or "0,3,5-7", in its order.

    Raises:
        CourseError: the text is not numbers and ranges, a range is inverted, a seed is given twice or too large, or
            there are too many.

    Example:
        >>> parse_seeds("0,3,5-7")
        [0, 3, 5, 6, 7]
    """
    hint = "Write numbers and ranges, such as --seeds 0-9 or --seeds 0,3,5-7"
    seeds: list[int] = []
    said = f"--seeds {' '.join(text.split()):.60}"
    for part in text.split(","):
        part = part.strip()
        found = re.fullmatch(r"([0-9]+)(?:\s*-\s*([0-9]+))?", part)
        if not found:
            what = "is negative; seeds are 0 or larger" if re.match(r"-\s*[0-9]", part) else "is no seed"
            raise CourseError(f"{said}: {part!r:.40} {what}. {hint}")
        if any(len(end or "") > 10 or int(end or 0) > _LARGEST for end in found.groups()):
            raise CourseError(f"{said}: {part!r:.40} is too large; the largest seed is {_LARGEST}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise CourseError(f"{said}: the range {part} is inverted; write {last}-{first}")
        if len(seeds) + last - first >= _MOST:
            raise CourseError(f"{said} names more than {_MOST:,} seeds; name fewer")
        seeds += range(first, last + 1)
    if twice := [seed for seed, times in Counter(seeds).items() if times > 1]:
        raise CourseError(
            f"{said}: {format_seeds(twice):.60} is given twice. The same run counted twice would make the interval "
            "too narrow; name every seed once"
        )
    return seeds


def format_seeds(seeds: Iterable[int]) -> str:
    """Write seeds as a text that `parse_seeds` reads, in rising order.

    Example:
        >>> format_seeds([5, 0, 1, 2])
        '0-2,5'
    """
    spans: list[list[int]] = []
    for seed in sorted(seeds):
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def shared_runs(configuration: Mapping[str, Any], seeds: Iterable[int]) -> list[str]:
    """Warn if the chapter itself runs several seeds from `seed` on, so that seeds of the sweep have runs in common.

    Args:
        configuration: of the sweep; its "parameters" may have `seeds`, the number that the chapter runs.
        seeds: of the sweep.

    Returns:
        One note, or none.

    Example:
        >>> shared_runs({"chapter": "01", "parameters": {"seeds": 3}}, [0, 3, 6])
        []
        >>> shared_runs({"chapter": "01", "parameters": {"seeds": 3}}, [0, 1])[0][-11:]
        '--seeds 0,3'
    """
    count = configuration.get("parameters", {}).get("seeds")
    ordered = sorted(seeds)
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        return []
    if all(later - earlier >= count for earlier, later in itertools.pairwise(ordered)):
        return []
    apart = ",".join(str(ordered[0] + count * place) for place in range(len(ordered)))
    return [
        f"note: {configuration['chapter']} has seeds = {count} and runs the seeds from `seed` on itself, so neighbours "
        f"share runs and the interval is too narrow. Take seeds {count} apart: --seeds {apart}"
    ]
