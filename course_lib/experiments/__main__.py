"""Measure experiments and keep their records: python -m course_lib.experiments [--extend] NAME ..."""

import sys

from course_lib.experiments.catalogue import experiments, fault, find


def main(names: list[str]) -> None:
    """Record the named experiments; without names, list all with what is wrong with their record."""
    extend = "--extend" in names  # measure only the runs that the record lacks
    names = [name for name in names if name != "--extend"]
    for name in names:
        print(f"{find(name).record(extend=extend)}", flush=True)
    if not names:
        for name, experiment in experiments().items():
            print(f"{name}: {len(experiment.runs)} runs. {fault(experiment)}".rstrip())


if __name__ == "__main__":
    main(sys.argv[1:])
