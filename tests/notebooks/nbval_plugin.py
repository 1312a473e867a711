"""What nbval needs to know of this course; loaded by `make test` with -p, in the process that starts the kernels."""

import os


def pytest_configure(config):
    os.environ["TQDM_DISABLE"] = "1"


def pytest_collectstart(collector):
    """stderr (warnings, progress) differs between machines: it is not compared."""
    if collector.__class__.__name__ == "IPyNbFile":
        collector.skip_compare += ("stderr",)
