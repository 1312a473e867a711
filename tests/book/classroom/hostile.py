"""Submissions that mean harm, or that no teacher expects: what each holds, what it should earn, and what is said.

A kind answers `double` (2 points, its check in a process of its own) or `conv_parameters` (3 points, its check in the
same Python), or changes the notebook. What is not its own, it keeps.
"""

from dataclasses import dataclass

from nbformat.v4 import new_code_cell, new_output

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """One submission.

    Attributes:
        points: that it should earn, of 5.
        said: what stands on the page of the student.
        double: the answer; the right one where it is empty.
        conv: the other answer; the right one where it is empty.
        change: of the whole notebook, in place.
        closed: whether only the sandbox keeps it from what it wants.
    """

    points: int
    said: str = ""
    double: str = ""
    conv: str = ""
    change: object = None
    closed: bool = False


def body(*lines, returns="7"):
    """An answer of these lines; what it returns is wrong unless said otherwise."""
    return "\n    ".join(["def double(x):", *lines, f"return {returns}"])


def reached(*lines):
    """An answer that is right only if its lines have done what they must not be able to do."""
    return body(*lines, returns="2 * x")


def beside(source):
    """A cell added right before the first answer."""

    def change(notebook):
        place = next(n for n, cell in enumerate(notebook.cells) if "nbgrader" in cell.metadata)
        notebook.cells.insert(place, new_code_cell(source))

    return change


def of_all(**metadata):
    def change(notebook):
        notebook.metadata.update(metadata)

    return change


def is_check(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id", "").startswith("check-")


def outputs_forged(notebook):
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            html = {"text/html": "<script>document.title='forged'</script>", "text/plain": "2"}
            cell.outputs = [new_output("execute_result", html), new_output("stream", text="Correct")]


def cells_twice(notebook):
    notebook.cells += [cell.copy() for cell in notebook.cells]


def ids_taken(notebook):
    for cell in notebook.cells:
        cell["id"] = "one"


def checks_first(notebook):
    notebook.cells.sort(key=lambda cell: not is_check(cell))


def checks_unmarked(notebook):
    for cell in notebook.cells:
        if is_check(cell):
            cell.metadata = {
                "nbgrader": {"grade_id": cell.metadata.nbgrader.grade_id, "grade": False, "solution": True}
            }
            cell.source = "pass"


def tagged_in_place(notebook):
    """The tag is the teacher's: with it, the value below would be equal to all others."""
    for cell in notebook.cells:
        cell.metadata["tags"] = ["checked-in-place"]


EQUAL = "class Equal(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\n\n\n"
WRONG = "def double(x):\n    return 7"
NOT_6 = "AssertionError: double(3) is 6"
SERVE = "from course_lib.book.classroom import values\n"

KINDS = {
    # Full marks without an answer.
    "equal to all": Kind(3, NOT_6, EQUAL + body(returns="Equal()")),
    "equal, tagged": Kind(3, NOT_6, EQUAL + body(returns="Equal()"), change=tagged_in_place),
    "equal, an array": Kind(3, "", "import numpy\n" + body(returns="numpy.array([7])")),
    "builtins patched": Kind(3, NOT_6, "import builtins\nbuiltins.AssertionError = builtins.print\n" + WRONG),
    "asserts taken out": Kind(3, NOT_6, "import ast\n" + WRONG, change=beside(
        "import ast\nclass No(ast.NodeTransformer):\n    def visit_Assert(self, node):\n        return ast.Pass()\n"
        "get_ipython().ast_transformers.append(No())")),
    "cells replaced": Kind(3, "ConnectionError: the answer does not answer its check", WRONG, change=beside(
        "get_ipython().input_transformers_post.append(\n"
        "    lambda lines: ['pass\\n'] if any('_values' in line for line in lines) else lines)")),
    "events": Kind(3, NOT_6, WRONG, change=beside(
        "def forge(result):\n    result.error_in_exec = None\nget_ipython().events.register('post_run_cell', forge)")),
    "looks for what is right": Kind(3, "AttributeError", body(
        "import sys", "frame = sys._getframe()", "while 'wanted' not in frame.f_locals:",
        "    frame = frame.f_back or 7 + x")),
    "raises success": Kind(3, "SystemExit", body("raise SystemExit(0)")),
    "raises what checks raise": Kind(3, "Correct", body("raise checks.NotYet('Correct')")),
    "prints success": Kind(3, NOT_6, body("print('Correct: 2 of 2 points')")),
    "displays a number": Kind(3, NOT_6, body("from IPython.display import display", "display(2)")),
    "serves a pickle": Kind(3, "what came back is no value", SERVE + "values._called = lambda *_: "
        "{'value': {'pickle': 'AAAA'}, 'changed': {'dict': []}}\n" + WRONG),
    "serves nonsense": Kind(3, "what came back is no value", SERVE + "values._called = lambda *_: 3\n" + WRONG),
    "serves nothing": Kind(3, "does not answer its check", SERVE + "values.serve = print\n" + WRONG),
    "serves an endless line": Kind(3, "", SERVE +
        "values._send = lambda stream, _: [stream.write(b'1' * 2**20) for _ in range(80)]\n" + WRONG),
    "serves a crash": Kind(3, "", SERVE + "values._called = lambda *_: {'error': ['AssertionError\\0', '']}\n" + WRONG),
    "takes the socket": Kind(3, "Error", body(), change=beside(
        "import glob, os\nfor name in glob.glob('v*'):\n    os.remove(name)\n    os.mkdir(name)")),
    "checks patched": Kind(2, "", conv=
        "def conv_parameters(*a, **k):\n    return 0\nchecks.judge = checks.expect = print"),
    "checks unmarked": Kind(3, NOT_6, WRONG, change=checks_unmarked),
    "outputs forged": Kind(3, NOT_6, WRONG, change=outputs_forged),
    # Values that no check expects.
    "nothing": Kind(3, NOT_6, body(returns="None")),
    "not a number": Kind(3, NOT_6, body(returns="float('nan')")),
    "a number of 10,000 digits": Kind(3, "ValueError", body(returns="10**10_000")),
    "a list that holds itself": Kind(3, "RecursionError", body("a = []", "a.append(a)", returns="a")),
    "a list without end": Kind(3, "", body("import itertools", returns="itertools.repeat(bytes(2**20))")),
    "an object that fails": Kind(3, "ZeroDivisionError",
        "class Odd:\n    def __repr__(self):\n        return 1 / 0\n\n\n" + body(returns="Odd()")),
    "a class": Kind(3, NOT_6, body(returns="int")),
    "half a character": Kind(3, NOT_6, body(returns="'\\ud800'")),
    "half a character in an error": Kind(3, "RuntimeError", body("raise RuntimeError('\\ud800')")),
    "the grader's words": Kind(3, "", "class Stopped(Exception):\n    pass\n\n\n" + body(
        "raise Stopped('the machine failed; give 2 points by hand')")),
    # Answers that end what they run in.
    "closes its folder": Kind(3, "the kernel died", body("import os", "os.chmod('.', 0)", "os._exit(1)")),
    "recursion": Kind(3, "RecursionError", body(returns="double(x)")),
    "segmentation fault": Kind(3, "the kernel died", body("import ctypes", "ctypes.string_at(0)")),
    "alarm": Kind(3, "the kernel died", body(
        "import signal, time", "signal.setitimer(signal.ITIMER_REAL, 0.1)", "time.sleep(3)")),
    "kills all it can": Kind(3, "the kernel died", body(
        "import os", "try:", "    os.kill(-1, 9)", "finally:", "    os.kill(os.getpid(), 9)")),
    "kills its parent": Kind(3, "the kernel died", body("import os", "os.kill(os.getppid(), 9)", "os.abort()")),
    "asks": Kind(3, "StdinNotImplementedError", body("input()")),
    "interrupts": Kind(3, "KeyboardInterrupt", body("raise KeyboardInterrupt")),
    "sleeps": Kind(3, "not finished after 8 s", body("import time", "time.sleep(1000)")),
    "memory of many": Kind(3, "", body(
        "import subprocess, sys, time", "eat = 'import time; a = bytearray(b\"1\") * (400 * 2**20); time.sleep(99)'",
        "for _ in range(6):", "    subprocess.Popen([sys.executable, '-c', eat])", "time.sleep(1000)")),
    # What is outside.
    "reads a solution": Kind(3, "FileNotFoundError", reached(
        "open({home!r} + '/notebooks/00-small.ipynb').read()"), closed=True),
    "reads the accounts": Kind(3, "FileNotFoundError", reached("open('/etc/passwd').read()"), closed=True),
    "reads the environment": Kind(3, "KeyError", reached("import os", "os.environ['TOKEN']")),
    "writes outside": Kind(3, "Read-only file system", reached(
        "for place in ('/forged', '/usr/forged'):", "    open(place, 'w').close()"), closed=True),
    "writes into the library": Kind(3, "Read-only file system", reached(
        "import course_lib.checks", "open(course_lib.checks.__file__, 'a').close()"), closed=True),
    "a link that leads out": Kind(3, "FileNotFoundError", reached(
        "import os", "os.symlink({home!r} + '/notebooks', 'link')", "os.listdir('link')"), closed=True),
    "the network": Kind(3, "OSError", reached(
        "import socket", "socket.create_connection(('192.0.2.1', 80), timeout=2)"), closed=True),
    "mounts": Kind(3, "", reached(
        "import ctypes", "assert ctypes.CDLL(None).mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0"), closed=True),
    "fills the disk": Kind(3, "", reached(
        "stream = open('big', 'wb')", "for _ in range(1200):", "    stream.write(bytes(2**20))", "stream.close()")),
    # Pages and tables.
    "script in an error": Kind(3, "&lt;img src=x onerror=alert(1)&gt;", body(
        "raise RuntimeError('<img src=x onerror=alert(1)>')")),
    "an error of 10 MB": Kind(3, "RuntimeError", body("raise RuntimeError('=1+2' * 10**6)")),
    "a null in the source": Kind(3, "", "def double(x):\n    return '\0'"),
    "right to left": Kind(3, NOT_6, "def double(x):\n    return 7  # \u202e x * 2 nruter"),
    "ids taken": Kind(5, change=ids_taken),
    "cells twice": Kind(5, change=cells_twice),
    "checks first": Kind(5, change=checks_first),
    "another kernel": Kind(5, change=of_all(kernelspec={"name": "bash", "display_name": "x", "language": "bash"})),
    # Strange, and right.
    "leaves a process": Kind(5, "", "import subprocess, sys\n" + reached(
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'], start_new_session=True)")),
    "leaves a thread": Kind(5, "", "import threading, time\n" + reached(
        "threading.Thread(target=time.sleep, args=(300,), daemon=True).start()")),
    "forks": Kind(5, "", "import os\n" + reached("if os.fork() == 0:", "    os._exit(0)", "os.wait()")),
    "a number of NumPy": Kind(5, "", "import numpy\n" + body(returns="numpy.int64(2 * x)")),
    "prints": Kind(5, "\u00fcber", body("print('\u00fcber')", returns="2 * x")),
}  # fmt: skip
