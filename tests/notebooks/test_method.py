"""The method that a chapter shows is the one that its experiments run."""

import ast
import importlib
import pkgutil

import pytest
from nbformat.v4 import new_code_cell, new_notebook

import course_lib.experiments
from course_lib.book import notebooks
from course_lib.experiments import code

METHOD = "method"
"""Tag of the cells whose functions also stand in course_lib/experiments/chapterNN.py."""


def module_functions(number):
    """{name: function} of all modules of the chapter's experiments."""
    names = [module.name for module in pkgutil.iter_modules(course_lib.experiments.__path__)]
    own = [name for name in names if name.startswith(f"chapter{number}")]
    found = {}
    for name in own:
        content = vars(importlib.import_module(f"course_lib.experiments.{name}"))
        found |= {key: value for key, value in content.items() if callable(value)}
    return found


def differences(notebook, functions):
    """What the functions of the cells tagged `method` do otherwise than those of the same name in the module."""
    found = []
    for cell in notebook.cells:
        if METHOD not in cell.metadata.get("tags", []):
            continue
        defined = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
        if not defined:
            found.append(f"a cell tagged {METHOD} defines no function: {cell.source.splitlines()[0]}")
        for node in defined:
            if node.name not in functions:
                found.append(f"{node.name} is in no module of the chapter's experiments")
            elif code._normal_text(ast.unparse(node)) != code.normal(functions[node.name]):
                found.append(f"{node.name} does something else than the function of the experiments")
    return found


@pytest.mark.parametrize("chapter", notebooks.book(), ids=lambda chapter: chapter.name)
def test_a_chapter_shows_the_method_that_its_experiments_run(chapter):
    functions = module_functions(chapter.path.stem[:2])
    assert differences(notebooks.read(chapter.path), functions) == []


# The comparison itself, with a function of chapter 01.

SHOWN = '''
def ask(teacher, images):  # a comment
    """Another docstring."""

    teacher.eval()
    with torch.no_grad():
        return torch.cat([teacher(to_float(part)) for part in images.split(500)])
'''


def cell(source, *tags):
    return new_notebook(cells=[new_code_cell(source, metadata={"tags": list(tags)})])


@pytest.fixture
def functions():
    def ask(teacher, images):
        teacher.eval()
        with torch.no_grad():
            return torch.cat([teacher(to_float(part)) for part in images.split(500)])

    return {"ask": ask}


def test_layout_comments_and_docstrings_may_differ(functions):
    assert differences(cell(SHOWN, METHOD), functions) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (SHOWN.replace("500", "100"), "ask does something else"),
        (SHOWN.replace("teacher.eval()", "teacher.train()"), "ask does something else"),
        (SHOWN.replace("(teacher, images)", "(teacher, images, size=1)"), "ask does something else"),
        (SHOWN.replace("def ask", "def ask_it"), "ask_it is in no module"),
        ("x = 1\ny = 2", "a cell tagged method defines no function: x = 1"),
    ],
)
def test_a_method_that_does_something_else_is_seen(functions, source, said):
    (found,) = differences(cell(source, METHOD), functions)
    assert said in found
    assert differences(cell(source), functions) == []


def test_the_functions_of_all_modules_of_a_chapter_are_known():
    assert "train_student" in module_functions("01")
