"""What the package lists is what a caller finds there, loaded when it is first used."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

from course_lib import pruning


def test_every_name_is_that_of_its_module():
    for name, module in pruning._MODULE_OF.items():
        assert getattr(pruning, name) is getattr(
            importlib.import_module(f"course_lib.pruning.{module}"), name
        )
        assert name in dir(pruning)
    assert pruning.__all__ == sorted(pruning._MODULE_OF)


def test_what_a_module_defines_for_others_is_listed():
    for module in [found.name for found in pkgutil.iter_modules(pruning.__path__)]:
        for name, value in vars(importlib.import_module(f"course_lib.pruning.{module}")).items():
            own = getattr(value, "__module__", "").startswith(f"course_lib.pruning.{module}")
            if own and callable(value) and not name.startswith("_"):
                assert name in pruning.__all__, f"{module}.{name}"


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'course_lib.pruning' has no attribute 'prune'"):
        pruning.prune  # noqa: B018


def test_importing_the_package_loads_none_of_its_modules():
    statement = "import course_lib.pruning, sys; print([m for m in sys.modules if 'pruning.' in m])"
    assert subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True).stdout == "[]\n"
