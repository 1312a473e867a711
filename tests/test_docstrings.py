"""The docstrings of course_lib: their examples run, all have one form, and a name that looks public is used."""

import ast
import contextlib
import doctest
import importlib
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest
import torch

import course_lib
from course_lib.checks import attempts

PENDING: tuple[str, ...] = ()
"""Rooms whose docstrings are not yet rewritten: their examples run, the other rules wait."""

TOOLS = ("course_lib.book",)
"""Commands on folders, kernels and pages: tests/book runs each of them whole, and an example would need all of that."""

EXPERIMENTS = "course_lib.experiments.chapter"
"""Modules of measurements: tests/experiments runs each for two steps, and an example would need as much."""

WITHOUT_EXAMPLE = {
    "needs files of the checkout": (
        "course_lib.checkpoints.another",
        "course_lib.checkpoints.folder",
        "course_lib.checkpoints.info",
        "course_lib.checkpoints.load",
        "course_lib.checkpoints.save",
        "course_lib.checkpoints.verify",
        "course_lib.checks.attempts.path",
        "course_lib.checks.attempts.read",
        "course_lib.checks.ratios.outcome",
        "course_lib.data.loading.load_dataset",
        "course_lib.experiments.records.keep",
        "course_lib.experiments.records.load",
        "course_lib.experiments.records.on_real_data",
        "course_lib.experiments.records.repeat",
        "course_lib.experiments.records.save",
        "course_lib.files.checksums",
        "course_lib.files.read_verified",
        "course_lib.files.record_checksum",
        "course_lib.files.write_verified",
        "course_lib.files.root",
    ),
    "needs a folder of images": (
        "course_lib.data.folder.decoded",
        "course_lib.data.folder.listing",
        "course_lib.data.folder.read",
        "course_lib.data.imagenet.listing",
        "course_lib.data.imagenet.read",
    ),
    "needs a network": (
        "course_lib.data.loading.fetch",
        "course_lib.data.remote.obtain",
        "course_lib.data.remote.read",
        "course_lib.data.remote.verify",
    ),
    "needs a kernel": (
        "course_lib.page.figures",
        "course_lib.page.interact",
        "course_lib.page.report",
        "course_lib.page.show",
        "course_lib.page.table",
    ),
    "needs a browser": (),
    "needs minutes": ("course_lib.checkpoints.retrain", "course_lib.pruning.eagleeye.search.search"),
    "starts a Dask cluster": ("course_lib.jobs.connected",),
    "a picture; tests/plots draws each": (
        "course_lib.plots.arms.before_and_after",
        "course_lib.plots.arms.compare_arms",
        "course_lib.plots.arms.differences",
        "course_lib.plots.arms.every_run",
        "course_lib.plots.arms.paired_runs",
        "course_lib.plots.arms.run_rows",
        "course_lib.plots.costs.accuracy_against_cost",
        "course_lib.plots.costs.activations_against_weights",
        "course_lib.plots.costs.call_times",
        "course_lib.plots.costs.memory_over_time",
        "course_lib.plots.curves.heat_map",
        "course_lib.plots.curves.interval_lines",
        "course_lib.plots.curves.interval_panels",
        "course_lib.plots.curves.line_panels",
        "course_lib.plots.curves.lines",
        "course_lib.plots.curves.run_panels",
        "course_lib.plots.images.image_grid",
        "course_lib.plots.images.image_with_probabilities",
        "course_lib.plots.images.probability_bars",
        "course_lib.plots.pruning.granularities",
        "course_lib.plots.pruning.layer_shares",
        "course_lib.plots.pruning.pruning_trajectories",
        "course_lib.plots.pruning.scales_over_epochs",
        "course_lib.plots.pruning.score_scatter",
        "course_lib.plots.pruning.weight_histograms",
        "course_lib.plots.pruning.width_bars",
        "course_lib.plots.quantization.histogram_with_thresholds",
        "course_lib.plots.quantization.integer_maps",
        "course_lib.plots.quantization.number_lines",
        "course_lib.plots.quantization.threshold_curves",
    ),
}
"""Public functions that go without an example, by reason."""

CALLED_BY_NAME = {
    "course_lib.book.classroom.autograde.main": "the classroom, as a process",
    "course_lib.book.site.check.main": "the Makefile",
    "course_lib.book.cli.app": "pyproject.toml",
    "course_lib.book.site.extension.setup": "Sphinx",
}
"""Public names that another program looks up."""

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "References")  # in this order

PACKAGE = Path(course_lib.__file__).parent
CHECKOUT = PACKAGE.parent


def module_name(path):
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if "templates" not in path.parts
}


def under(name, prefixes):
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def is_public(name):
    return not any(part.startswith("_") for part in name.split("."))


READY = [name for name in TREES if not under(name, PENDING)]
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(tree):
    """{qualified name, "" for the module: docstring} of a module, its classes and functions, nested ones too."""

    def walk(node, name):
        if (text := ast.get_docstring(node)) is not None:
            yield name, text
        for child in node.body:
            if isinstance(child, ast.ClassDef | FUNCTION):
                yield from walk(child, f"{name}.{child.name}".lstrip("."))

    return dict(walk(tree, ""))


def examples(text):
    return len(re.findall(r"^\s*>>> ", text, re.MULTILINE))


# The rules. Each returns what is wrong, one sentence for each fault.


def faults_of_form(tree):
    for name, text in docstrings(tree).items():
        if not is_public(name):
            continue
        first, *rest = text.split("\n")
        if not first.endswith("."):
            yield f"{name or 'the module'}: the first line does not end with a full stop: {first!r}"
        if rest and rest[0].strip():
            yield f"{name or 'the module'}: no blank line after the first: {rest[0]!r}"
        headings = re.findall(r"^(\w+) ?:$", text, re.MULTILINE)
        headings += re.findall(r"^(Sources?):.", text, re.MULTILINE)
        for heading in headings:
            if heading not in SECTIONS:
                yield f"{name or 'the module'}: there is no section {heading!r}; known are {', '.join(SECTIONS)}"
        known = [heading for heading in headings if heading in SECTIONS]
        if known != sorted(set(known), key=SECTIONS.index):
            yield f"{name or 'the module'}: the sections {known} stand in another order than {SECTIONS}"


def faults_of_examples(tree, exempt=()):
    for node in tree.body:
        if isinstance(node, FUNCTION) and is_public(node.name) and node.name not in exempt:
            text = ast.get_docstring(node) or ""
            if not examples(text):
                yield f"{node.name} has no example"
            elif "Example:" not in text.split("\n"):
                yield f"the example of {node.name} does not stand in a section Example"


def defined(tree):
    """The public names that a module defines, without those that a command line or a decorator registers."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | FUNCTION):
            registered = any(
                isinstance(part, ast.Attribute) and part.attr in ("command", "callback")
                for decorator in node.decorator_list
                for part in ast.walk(decorator)
            )
            names = [] if registered else [node.name]
        elif isinstance(node, ast.Assign):
            names = [part.id for part in node.targets if isinstance(part, ast.Name)]
        else:
            names = [node.target.id] if isinstance(node, ast.AnnAssign) else []
        yield from filter(is_public, names)


def exported(tree):
    """What a module lists in `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return {part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)}
    return set()


def used(tree, package=""):
    """The full dotted names of course_lib that a program imports, or reaches from what it imports."""
    aliases, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                aliases[name.asname or name.name.split(".")[0]] = (
                    name.name if name.asname else name.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for name in node.names:
                aliases[name.asname or name.name] = f"{origin}.{name.name}"
                found.add(f"{origin}.{name.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            head, _, tail = ast.unparse(node).partition(".")
            if re.fullmatch(r"[\w.]+", tail) and head in aliases:
                found.add(f"{aliases[head]}.{tail}")
    return found


def code_spans(markdown):
    """What stands between backquotes, in a line or as a block."""
    return re.findall(r"```.*?```|`[^`\n]+`", markdown, re.DOTALL)


def mentioned(name, spans):
    """Whether code in a text names it: alone, called, or behind its module."""
    module, _, last = name.rpartition(".")
    qualified = rf"(?:(?:[\w.]*\.)?{module.rpartition('.')[2]}\.)?"
    return any(re.search(rf"(?<![\w./-]){qualified}{last}(?![\w/=-])", span) for span in spans)


def faults_of_names(name, tree, uses, spans):
    package = name.rpartition(".")[0]
    listed = exported(tree) | (exported(TREES[package]) if package in TREES else set())
    for own in defined(tree):
        full = f"{name}.{own}"
        if not (own in listed or full in uses or full in CALLED_BY_NAME or mentioned(full, spans)):
            yield f"{own} is used by no notebook, page or other module and is in no __all__: underscore or list it"


# What uses the library.


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.fixture(scope="module")
def users():
    """{user: full names}: the other modules, and the notebooks under their path."""
    packages = {name: name if exported_package(name) else name.rpartition(".")[0] for name in TREES}
    found = {name: used(tree, packages[name]) for name, tree in TREES.items()}
    for path in sorted((CHECKOUT / "notebooks").rglob("*.ipynb")):
        code = "\n".join(cells(path, "code"))
        plain = re.sub(r"^(\s*)[%!].*", r"\1pass", code, flags=re.MULTILINE)
        found[str(path)] = used(ast.parse(plain))
    return found


def exported_package(name):
    return (CHECKOUT / Path(*name.split("."))).is_dir()


@pytest.fixture(scope="module")
def spans():
    """The code in README.md, in the pages of notebooks/ and in the texts of the chapters."""
    pages = [CHECKOUT / "README.md", *sorted((CHECKOUT / "notebooks").glob("*.md"))]
    texts = [path.read_text(encoding="utf-8") for path in pages]
    for path in sorted((CHECKOUT / "notebooks").rglob("*.ipynb")):
        texts += cells(path, "markdown")
    return [span for text in texts for span in code_spans(text)]


# (a) The examples run.


@pytest.mark.parametrize("name", [name for name, tree in TREES.items() if examples(ast.unparse(tree))])
def test_the_examples_run(name, monkeypatch):
    monkeypatch.setattr(attempts, "_here", {})  # a check says more after its first failure
    if name == "course_lib.book.site.extension":
        pytest.importorskip("sphinx", reason="the extra `site` is not installed; make site-test installs it")
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder().find(module, name)
    report = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
        for test in tests:
            runner.run(test, out=report.write)
    assert runner.failures == 0, report.getvalue()
    assert runner.tries == sum(map(examples, docstrings(TREES[name]).values())), "some examples are not found"


# (b) to (d) The form, an example for each function, no name that only looks public.


@pytest.mark.parametrize("name", READY)
def test_docstrings_have_one_form(name):
    assert list(faults_of_form(TREES[name])) == []


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in READY
        if is_public(name) and not under(name, TOOLS) and not name.startswith(EXPERIMENTS)
    ],
)
def test_public_functions_have_an_example(name):
    exempt = {
        full.rpartition(".")[2]
        for names in WITHOUT_EXAMPLE.values()
        for full in names
        if full.rpartition(".")[0] == name
    }
    assert list(faults_of_examples(TREES[name], exempt)) == []


def test_functions_without_example_exist_and_have_none():
    for full in (full for names in WITHOUT_EXAMPLE.values() for full in names):
        module, _, own = full.rpartition(".")
        assert [own] == [
            node.name
            for node in TREES[module].body
            if isinstance(node, FUNCTION) and node.name == own and not examples(ast.get_docstring(node) or "")
        ]


@pytest.mark.parametrize(
    "name", [name for name in READY if is_public(name) and not name.startswith(EXPERIMENTS)]
)
def test_public_names_are_used(name, users, spans):
    uses = set().union(*(names for user, names in users.items() if user != name))
    assert list(faults_of_names(name, TREES[name], uses, spans)) == []


# The rules themselves.


@pytest.mark.parametrize(
    ("docstring", "fault"),
    [
        ("No full stop", "full stop"),
        ("A first line.\n    And a second.", "blank line"),
        ("Right.\n\n    Source: a paper.", "'Source'"),
        ("Right.\n\n    Source:\n        A paper.", "'Source'"),
        ("Right.\n\n    Argument:\n        x: a number.", "'Argument'"),
        ("Right.\n\n    raises:\n        ValueError: never.", "'raises'"),
        ("Right.\n\n    Raises:\n        A: a.\n\n    Args:\n        x: a number.", "another order"),
    ],
)
def test_a_docstring_of_another_form_is_named(docstring, fault):
    source = 'def function(x):\n    """{}"""\nclass Thing:\n    def method(self):\n        """{}"""'
    good = "Right.\n\n    Args:\n        x: a number.\n\n    Raises:\n        ValueError: never."
    assert list(faults_of_form(ast.parse(source.format(good, good)))) == []
    (found,) = faults_of_form(ast.parse(source.format(docstring, good)))
    assert found.startswith("function")
    assert fault in found
    (found,) = faults_of_form(ast.parse(source.format(good, docstring)))
    assert found.startswith("Thing.method")
    assert fault in found


def test_a_function_without_an_example_is_named():
    with_one = 'def f():\n    """Right.\n\n    Example:\n        >>> 1\n        1\n    """\n'
    assert list(faults_of_examples(ast.parse(with_one))) == []
    without = ast.parse(with_one.replace("        >>> 1\n        1\n", "        None.\n"))
    assert list(faults_of_examples(without)) == ["f has no example"]
    assert list(faults_of_examples(without, exempt={"f"})) == []
    outside = ast.parse(with_one.replace("Example:", "It is so::"))
    assert list(faults_of_examples(outside)) == ["the example of f does not stand in a section Example"]


def test_a_name_that_nothing_uses_is_named():
    tree = ast.parse("A = 1\nB: int = 2\n_C = 3\ndef d(): ...\nclass E: ...\n@app.command()\ndef f(): ...")
    module = "course_lib.room"

    def names(uses=(), spans=(), tree=tree):
        return [fault.split()[0] for fault in faults_of_names(module, tree, set(uses), spans)]

    assert names() == ["A", "B", "d", "E"]
    user = ast.parse("from course_lib import room\nfrom course_lib.room import A as other\nroom.d(1).E")
    assert names(used(user)) == ["B", "E"]
    assert names(used(ast.parse("import course_lib.room\ncourse_lib.room.B"))) == ["A", "d", "E"]
    assert names(used(ast.parse("from . import room\nroom.E()"), "course_lib")) == ["A", "B", "d"]
    assert names(spans=code_spans("A and E; `room.d(1)`, ```\nB = 2\n``` and `other.E`")) == ["A", "E"]
    assert names(tree=ast.parse("__all__ = ['A']\nA = 1\nB = 2")) == ["B"]
