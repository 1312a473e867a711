"""All experiments by the name of their record."""

import importlib
import pkgutil

import course_lib.experiments
from course_lib.experiments.experiment import Experiment
from course_lib.validation import check_choice

__all__ = ["experiments", "find"]


def experiments() -> dict[str, Experiment]:
    """Collect the experiments of all chapters: {name: experiment}, in the order of the names.

    Example:
        >>> "01-labels" in experiments()
        True
    """
    found = {}
    for module in pkgutil.iter_modules(course_lib.experiments.__path__):
        if module.name.startswith("chapter"):
            content = vars(importlib.import_module(f"course_lib.experiments.{module.name}"))
            found |= {value.name: value for value in content.values() if isinstance(value, Experiment)}
    return dict(sorted(found.items()))


def find(name: str) -> Experiment:
    """Find an experiment by the name of its record.

    Raises:
        KeyError: there is none; the message lists the nearest ones.

    Example:
        >>> find("01-labels").dataset
        'glyphs'
    """
    known = experiments()
    return known[check_choice(name, "experiment", tuple(known), error=KeyError)]
