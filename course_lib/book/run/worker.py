"""The task of a Dask worker in `course sweep`: one seed of a chapter. It imports little, as every worker loads it."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from course_lib.book import CourseError, notebooks
from course_lib.book.run import runner, state
from course_lib.book.run.task import Task

# A worker is one core: two of them must not fight over two cores with four threads, or with joblib's processes.
ONE_CORE = dict.fromkeys((*runner.ONE_THREAD, "LOKY_MAX_CPU_COUNT"), "1")


def run_seed(
    name: str,
    source: str,
    parameters: dict[str, Any],
    library: str | None = None,
    origin: Mapping[str, Any] | None = None,
) -> tuple[str | None, dict[str, Any]]:
    """Run a notebook in a temporary folder, on one core.

    Args:
        name: of the chapter.
        source: text of the notebook.
        parameters: that it is given, the seed among them.
        library: digest of the course_lib to run with (see `state.library_sha256`); None where it is the same files.
        origin: where this runs, as `records.provenance` gives it; None to find out.

    Returns:
        The executed notebook as a text (None if its kernel never started), and what sweep.json keeps of the run.

    Raises:
        CourseError: the worker has another course_lib.
    """
    import distributed
    import nbformat

    here = distributed.get_worker()
    own = state.library_sha256()
    if library not in (None, own):
        raise CourseError(
            f"the worker {here.address} has another course_lib than this machine. Install the same checkout there, and "
            "start it again"
        )
    # Dask empties its folder when the worker dies.
    with tempfile.TemporaryDirectory(dir=here.local_directory) as folder:
        notebook = nbformat.reads(source, as_version=4)
        outcome = runner.execute(Task(name, notebook, parameters, Path(folder), environment=ONE_CORE))
    started = outcome.notebook is not None
    run = {
        "figures": notebooks.key_figures(outcome.notebook) if started else {},
        "seconds": round(outcome.seconds, 3),
        "failure": asdict(outcome.failure) if outcome.failure else None,
        "library_sha256": own,
        "provenance": _provenance(origin, parameters.get("device", "auto")),
    }
    return notebooks.to_text(outcome.notebook) if started else None, run


def _provenance(origin: Mapping[str, Any] | None, device: str) -> dict[str, Any]:
    if origin is None:
        from course_lib.experiments import records

        origin = records.provenance()
    return dict(origin) if device == "auto" else {**origin, "device": device}
