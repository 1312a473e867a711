"""Parameters for a run: a profile, then --seed, then --set, each over the one before.

A profile is flat YAML in notebooks/profiles: `name: value` goes to every chapter that knows the name,
`"01.name": value` to chapter 01 alone. The profile `fast` is what the notebooks themselves say.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from course_lib.book import CourseError
from course_lib.book.notebooks import Chapter, select

__all__ = ["load", "names", "parse_assignments", "resolve", "spread"]

_FAST = "fast"
_LARGEST = 2**63 - 1  # what PyTorch takes for a seed


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that 1e-3 is a number, as in Python, and that a key given twice or an alias is an error."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):  # with it a list could hold itself
            raise yaml.YAMLError("an alias such as *a is not accepted; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} is given {keys.count(key)} times")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def names(folder: Path) -> list[str]:
    """List the profiles: `fast`, and every .yaml file of the folder."""
    return [_FAST, *sorted(path.stem for path in folder.glob("*.yaml") if path.stem != _FAST)]


def load(name: str, folder: Path) -> dict[str, Any]:
    """Load the entries of a profile.

    Raises:
        CourseError: no such profile, not flat YAML, or a value that is neither a scalar nor a list.
    """
    known = names(folder)
    if name not in known:
        from course_lib.names import unknown_name

        raise CourseError(unknown_name(name, "profile", known))
    path = folder / f"{name}.yaml"
    if name == _FAST and not path.exists():
        return {}
    entries = _parse(path.read_text(encoding="utf-8"), str(path))
    if entries is None:
        return {}
    if not isinstance(entries, dict):
        raise CourseError(f"{path} must hold `name: value` lines; it holds a {type(entries).__name__}")
    return {str(key): _check_value(value, f"{path}: {key}") for key, value in entries.items()}


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse the `name=value` texts of --set into a dict; a value is a YAML scalar or list.

    Raises:
        CourseError: no `=`, no name, a name given twice, or a value that is not a scalar or a list.

    Example:
        >>> parse_assignments(["seeds=[0, 1]", "01.dataset=mnist"])
        {'seeds': [0, 1], '01.dataset': 'mnist'}
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not name.strip(".") == name or not name:
            raise CourseError(
                f"--set {assignment}: write name=value, such as --set seeds=3 or --set 01.seeds=3"
            )
        if name in values:
            raise CourseError(f"--set {name} is given twice; keep one of the two")
        values[name] = _check_value(_parse(text, f"--set {assignment}"), f"--set {assignment}")
    return values


def resolve(
    chapters: Sequence[Chapter],
    selected: Sequence[Chapter],
    *,
    profile: Mapping[str, Any],
    seed: int | None = None,
    assignments: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Resolve the parameters of each selected chapter, by the chapter's name.

    Args:
        chapters: the whole book; a profile may speak of any chapter in it.
        selected: the chapters of this run; --seed and --set must concern at least one of them.
        profile: entries of the profile (see `load`).
        seed: goes to the chapters that have a parameter `seed`.
        assignments: what --set gives (see `parse_assignments`).

    Returns:
        {chapter name: {parameter: value}}, without the parameters left at their defaults.

    Raises:
        CourseError: a name that no chapter knows, or a value of another kind than the chapter's own.
    """
    layers = [spread(profile, chapters, chapters, "key of the profile")]
    if seed is not None:
        layers.append(spread({"seed": seed}, selected, chapters, "parameter (--seed)"))
    layers.append(spread(assignments or {}, selected, chapters, "parameter (--set)"))
    merged: dict[str, dict[str, Any]] = {chapter.name: {} for chapter in selected}
    for layer in layers:
        for name in merged:
            merged[name] |= layer.get(name, {})
    return merged


def spread(
    entries: Mapping[str, Any], concerned: Sequence[Chapter], book: Sequence[Chapter], kind: str
) -> dict[str, dict[str, Any]]:
    """Hand each entry to the chapters it concerns; what names one chapter wins over what names all.

    Args:
        entries: `name` or `chapter.name`, each with a value.
        concerned: the chapters that may be concerned.
        book: all chapters, among which `chapter` in an entry is looked up.
        kind: what an entry is called in an error.

    Raises:
        CourseError: an entry that no concerned chapter knows, or a value of another kind than the chapter's own.
    """
    found: dict[str, dict[str, Any]] = {chapter.name: {} for chapter in concerned}
    for key in sorted(entries, key=lambda key: "." in key):
        word, _, name = key.rpartition(".")
        meant = select([word], book) if word else concerned
        if any(chapter.name not in found for chapter in meant):
            raise CourseError(f"{kind} {key!r} is for chapter {meant[0].name}, which is not part of this run")
        knowing = [chapter for chapter in meant if name in chapter.parameters]
        if not knowing:
            from course_lib.names import unknown_name

            where = f" of chapter {meant[0].name}" if word else ""
            raise CourseError(
                unknown_name(name, kind + where, sorted({n for c in meant for n in c.parameters}))
            )
        for chapter in knowing:
            default, value = chapter.parameters[name], entries[key]
            if None not in (default, value) and _kind(default) != _kind(value):
                raise CourseError(
                    f"{kind} {key} is {value!r}, {_kind(value)}; chapter {chapter.name} expects {_kind(default)} "
                    f"(its own value is {default!r})"
                )
            found[chapter.name][name] = value
    return found


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise CourseError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


def _check_value(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_check_value(item, where) for item in value]
    if isinstance(value, (int, float)) and not -_LARGEST <= value <= _LARGEST:  # NaN is neither
        raise CourseError(f"{where}: {value} is not accepted; numbers go from -2**63 + 1 to 2**63 - 1")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CourseError(
        f"{where}: a {type(value).__name__} is not accepted; give a number, a text, true, false, or a list"
    )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return {str: "a text", list: "a list", tuple: "a list"}.get(type(value), f"a {type(value).__name__}")
