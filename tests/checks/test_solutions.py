"""Each check accepts the answer that stands in its notebook and prints one line, and knows one that is not written."""

import importlib

import pytest

from course_lib.book import exercises, notebooks
from course_lib.checks import NotYet
from tests.checks import solutions

EXERCISES = [
    (chapter.number, exercise)
    for chapter in notebooks.chapters()
    for exercise in exercises.of(notebooks.read(chapter.path))
]
every_exercise = pytest.mark.parametrize(
    ("number", "exercise"), EXERCISES, ids=[f"{number}-{one.name}" for number, one in EXERCISES]
)


TOGETHER = {"integer-vgg": ("range-to-integers", "to-integers", "fold", "quantized-conv2d")}
"""{exercise: the answers that its check takes}, where they are several."""


def check_of(number, exercise):
    module = importlib.import_module(f"course_lib.checks.chapter{number}")
    return getattr(module, exercise.check.replace("-", "_"))


@every_exercise
def test_the_answer_of_the_notebook_is_accepted_with_one_line(number, exercise, capsys):
    answers = solutions.of(number)
    check_of(number, exercise)(*(answers[name] for name in TOGETHER.get(exercise.name, [exercise.solution])))
    printed = capsys.readouterr().out
    assert printed.startswith("Correct: ")
    assert printed.count("\n") == 1


@every_exercise
def test_a_function_that_is_not_written_yet_is_said_to_be_so(number, exercise):
    def todo(*arguments, **keywords):
        raise NotImplementedError

    with pytest.raises(NotYet, match="is not written yet"):
        check_of(number, exercise)(*[todo] * len(TOGETHER.get(exercise.name, [exercise.solution])))
