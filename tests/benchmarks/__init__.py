"""Measured figures, kept by `make bench`; measuring is never part of the test suite, since a time is no law."""
