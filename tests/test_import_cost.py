"""What a part of the library drags in; which modules are loaded is counted, never a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import course_lib

HEAVY = (
    "IPython",
    "course_lib.book",
    "dask",
    "joblib",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pandas",
    "papermill",
    "safetensors",
    "scipy",
    "tqdm",
)


def loaded_by(statement):
    """The names of all modules in a fresh process after the statement."""
    checkout = str(Path(course_lib.__file__).parent.parent)  # the library under test, wherever it lies
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": checkout},
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def torch_alone():
    return loaded_by("import torch")


@pytest.mark.parametrize("technique", ["distillation", "factorization", "hashing"])
def test_a_technique_loads_torch_and_little_else(technique, torch_alone):
    loaded = loaded_by(f"import course_lib.{technique}")
    assert f"course_lib.{technique}" in loaded
    assert sorted(set(HEAVY) & (loaded - torch_alone)) == []
    own = {name for name in loaded if name.startswith("course_lib")}
    allowed = {"course_lib", f"course_lib.{technique}", "course_lib.names", "course_lib.validation"}
    assert {name for name in own - allowed if not name.startswith(f"course_lib.{technique}.")} == set()


@pytest.mark.parametrize(
    "name", ["distillation_loss", "decoupled_loss", "hint_loss", "top_k_loss", "captured"]
)
def test_a_loss_of_distillation_loads_the_library_s_checks_and_nothing_more(name, torch_alone):
    loaded = loaded_by(f"from course_lib.distillation import {name}")
    assert sorted(set(HEAVY) & (loaded - torch_alone)) == []
    own = {module for module in loaded if module.startswith("course_lib.")}
    assert {module for module in own if not module.startswith("course_lib.distillation")} == {
        "course_lib.names",
        "course_lib.validation",
    }


def test_checkpoints_and_training_load_neither_figures_nor_tables_nor_the_book(torch_alone):
    loaded = loaded_by("import course_lib.checkpoints") - torch_alone
    assert {"course_lib.training", "course_lib.models", "course_lib.data"} <= loaded
    assert sorted((set(HEAVY) - {"safetensors", "tqdm"}) & loaded) == []
