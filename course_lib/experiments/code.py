"""Which code measured: a digest that changes with what the code does, and not with its comments."""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

__all__ = ["digest", "normal", "same"]

_HERE = "course_lib.experiments"
_LABORATORY = {f"{_HERE}.{name}" for name in ("catalogue", "code", "experiment", "records", "results")}
"""What runs experiments and keeps records; it measures nothing itself."""


def normal(function: Callable[..., Any]) -> str:
    """Write what a function does, without its comments, docstring, decorators and layout.

    Args:
        function: of a module or of a notebook; its source can be read.

    Returns:
        The dump of its syntax tree.

    Raises:
        OSError: the source cannot be read, as for a function that was typed into `python`.

    Example:
        >>> from course_lib.statistics import mean_interval
        >>> "Student" in normal(mean_interval), "sqrt" in normal(mean_interval)
        (False, True)
    """
    return _normal_text(inspect.getsource(function))


def same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Tell whether two functions have the same code, comments and docstrings aside.

    Example:
        >>> from course_lib.statistics import mean_interval, paired_difference
        >>> same(mean_interval, mean_interval), same(mean_interval, paired_difference)
        (True, False)
    """
    return normal(one) == normal(other)


def digest(*functions: Callable[..., Any]) -> str:
    """Compute a digest of functions and of all that they use from the experiments: functions, classes, constants.

    What they use from the laboratory itself (`Experiment`, `records`) and from the rest of the library belongs to the
    commit of a record, not to this digest. Nor does the module in which a thing stands: it may be moved.

    Args:
        functions: of modules in `course_lib.experiments`, or of a test.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> len(digest(same)), digest(same) == digest(same), digest(same) == digest(normal)
        (16, True, False)
    """
    seen: set[str] = set()
    parts: set[str] = set()
    waiting: list[Any] = list(functions)
    while waiting:
        thing = waiting.pop()
        thing = inspect.unwrap(thing)
        key = f"{thing.__module__}.{thing.__qualname__}"
        if key in seen:
            continue
        seen.add(key)
        parts.add(f"{thing.__qualname__} {normal(thing)}")
        for name, value in _used(thing):
            if (inspect.isfunction(value) or inspect.isclass(value)) and _is_ours(value, thing):
                waiting.append(value)
            elif hasattr(value, "__wrapped__") and _is_ours(value.__wrapped__, thing):  # functools.cache
                waiting.append(value.__wrapped__)
            elif _is_constant(value):
                parts.add(f"{name} {value!r}")
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]


def _used(thing: Any) -> list[tuple[str, Any]]:
    """List (name, value) of the globals that the source of a function or class names, also through a module."""
    space = vars(inspect.getmodule(thing))
    found = []
    for node in ast.walk(ast.parse(_text(thing))):
        if isinstance(node, ast.Name) and node.id in space:
            found.append((node.id, space[node.id]))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = space.get(node.value.id)
            if inspect.ismodule(module) and _measures(module.__name__):
                found.append((f"{node.value.id}.{node.attr}", getattr(module, node.attr, None)))
    return found


def _is_ours(value: Any, user: Any) -> bool:
    module = getattr(value, "__module__", "") or ""
    return _measures(module) or module == user.__module__


def _measures(module: str) -> bool:
    return module.startswith(_HERE) and module not in _LABORATORY


def _is_constant(value: Any) -> bool:
    """Tell whether a value is of plain data, whose repr says all."""
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(_is_constant, value))
    if isinstance(value, dict):
        return all(map(_is_constant, value)) and all(map(_is_constant, value.values()))
    if hasattr(value, "__dataclass_fields__") and not inspect.isclass(value):
        return all(_is_constant(getattr(value, name)) for name in value.__dataclass_fields__)
    return value is None or isinstance(value, (bool, int, float, str))


def _text(thing: Any) -> str:
    return textwrap.dedent(inspect.getsource(thing))


def _normal_text(source: str) -> str:
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            node.decorator_list = []
            first = node.body[0]
            if (
                len(node.body) > 1
                and isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)
