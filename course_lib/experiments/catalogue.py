"""All experiments by the name of their record."""

import importlib
import pkgutil

import course_lib.experiments
from course_lib.experiments import records
from course_lib.experiments.experiment import Experiment
from course_lib.validation import check_choice

__all__ = ["experiments", "fault", "find"]


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


def fault(experiment: Experiment) -> str:
    """Say what is wrong with the record of an experiment, and the command that mends it; empty if nothing is.

    A record may be missing, of an earlier form, of other runs or settings, or measured by other code.

    Example:
        >>> fault(Experiment("00-none", (), dict))
        "there is no record '00-none'; measure it: python -m course_lib.experiments 00-none"
    """
    again = f"python -m course_lib.experiments {experiment.name}"
    try:
        record = records.load(experiment.name)
    except KeyError:
        return f"there is no record {experiment.name!r}; measure it: {again}"
    if "runs" not in record:
        return f"the record {experiment.name!r} is of an earlier form; measure it again: {again}"
    try:
        experiment.recorded()
    except ValueError as error:
        return str(error)
    stale = experiment.stale()
    return f"the record {experiment.name!r}: {stale}; measure it again: {again}" if stale else ""
