"""JupyterLab in a learner's folder, with the course that was found from here."""

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from course_lib import files
from course_lib.book import CourseError

__all__ = ["start"]


def start(folder: Path, notebook: str) -> int:
    """Open JupyterLab in a folder and wait until it ends.

    Args:
        folder: that it shows.
        notebook: in it, to open at once.

    Returns:
        Its exit status.

    Raises:
        CourseError: it is not installed.
    """
    if find_spec("jupyterlab") is None:
        raise CourseError(
            f"JupyterLab is not installed: pip install jupyterlab. Or open {folder / notebook} in another program "
            "that runs notebooks"
        )
    lab = subprocess.Popen([sys.executable, "-m", "jupyterlab", notebook], cwd=folder, env=_environment())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for JupyterLab, which asks whether it was meant
    signal.signal(signal.SIGTERM, lambda *_: lab.terminate())
    return lab.wait()


def _environment() -> dict[str, str]:
    """Folders that are named from here would be others from there."""
    found = dict(os.environ)
    if found.get("COURSE_HOME"):
        found["COURSE_HOME"] = str(files.root())
    if found.get("COURSE_DATA") or files.installed():
        found["COURSE_DATA"] = str(files.data_root().absolute())
    return found
