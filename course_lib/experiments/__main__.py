"""Measure experiments and keep their records: python -m course_lib.experiments NAME ..."""

import sys

from course_lib.experiments.catalogue import experiments, fault, find


def main(names: list[str]) -> None:
    """Record the named experiments; without names, list all with what is wrong with their record."""
    for name in names:
        print(f"{find(name).record()}", flush=True)
    if not names:
        for name, experiment in experiments().items():
            print(f"{name}: {len(experiment.runs)} runs. {fault(experiment)}".rstrip())


if __name__ == "__main__":
    main(sys.argv[1:])
