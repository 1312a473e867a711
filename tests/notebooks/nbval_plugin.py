"""What nbval needs to know of this course; loaded by `make test` with -p, in the process that starts the kernels."""

import os


def pytest_configure(config):
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["COURSE_PROGRESS"] = "off"  # the answers in the committed notebooks are no learner's


def pytest_collectstart(collector):
    """stderr (warnings, progress) differs between machines: it is not compared."""
    if collector.__class__.__name__ == "IPyNbFile":
        collector.skip_compare += ("stderr",)
