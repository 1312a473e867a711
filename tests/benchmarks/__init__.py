"""Measured figures, printed by `make bench`; never part of the test suite, since a time is no law."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # as in the chapters; read when tqdm is imported
