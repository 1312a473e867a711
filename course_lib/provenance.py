"""When and where something was measured or trained: date, commit, device, processor, versions."""

import datetime
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from course_lib import files

__all__ = ["provenance"]


def provenance() -> dict[str, Any]:
    """Describe when and where this runs: date, commit, device, machine, processor, versions.

    Example:
        >>> sorted(provenance())
        ['commit', 'cpu', 'date', 'device', 'machine', 'versions']
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def _commit() -> str:
    """Name the commit that is checked out, with "+" if code or notebooks differ from it; "unknown" without git."""
    if files.installed():  # a repository around the package is somebody else's
        return "unknown"
    try:
        call = {"cwd": files.root(), "capture_output": True, "text": True, "check": True}
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **call).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "course_lib", "notebooks"], **call).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed.strip() else "")


def _cpu_model() -> str:
    """Name the processor, as Linux tells it; elsewhere as Python does."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
