"""The public names of the room: where each comes from, and what asking for all of them imports."""

import importlib
import subprocess
import sys

import pytest

from course_lib import quantization


def test_each_public_name_is_found_where_it_is_defined():
    homes = {name: module for module, names in quantization._HOMES.items() for name in names}
    assert sorted(homes) == sorted(quantization.__all__)
    for name, module in homes.items():
        home = importlib.import_module(f"course_lib.quantization.{module}")
        assert getattr(quantization, name) is getattr(home, name)
        if name != "OPERATIONS":
            assert getattr(home, name).__module__ == home.__name__


def test_another_name_is_none_of_them():
    with pytest.raises(AttributeError, match=r"'course_lib\.quantization' has no attribute 'quantise'"):
        quantization.quantise  # noqa: B018


def test_all_of_them_import_neither_onnx_nor_plots():
    code = "import sys; from course_lib.quantization import *; to_integer, prepare; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "course_lib.quantization.aware" in found.stdout.split()
    assert not {"onnx", "onnxruntime", "onnxscript", "matplotlib", "dask"} & set(found.stdout.split())
    code = "import sys, course_lib.quantization; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in found.stdout.split()
