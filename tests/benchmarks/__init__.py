"""Measured figures, printed by `make bench`; never part of the test suite, since a time is no law."""
