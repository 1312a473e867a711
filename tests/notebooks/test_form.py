"""The form of every committed notebook; below, the proof that each rule refuses what it should.

A rule is a function from a notebook (and its path) to a list of faults.
"""

import ast
import builtins
import copy
import json
import re
import symtable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.book import exercises as grading
from course_lib.book import notebooks
from course_lib.book.run import profiles
from tests.notebooks.new_form import NEW_FORM

REQUIRED_HEADINGS = [
    "Setup",
    "The idea by hand",
    "The method",
    "On a real network",
    "Bugs that look right",
    "Exercises",
    "Results",
    "Recap",
    "Quiz",
    "References",
]
LARGEST = 300 * 1024  # bytes
SHORTEST_ALT = 20  # characters
EXERCISES = 3

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
BOOK = sorted(FOLDER.glob("*.ipynb"))
STUDIES = sorted((FOLDER / notebooks.STUDIES).glob("*.ipynb"))

ABSOLUTE_PATH = re.compile(
    r"(?<![\w/.:~])/(?:bin|content|etc|home|lib|media|mnt|opt|private|root|srv|tmp|usr|Users|var|work)/[\w.@+-]"
    r"|\b[A-Z]:\\[\w.]"
)


def comparable(title):
    return re.sub(r"[^a-z0-9]", "", title.lower())


PAPERS = {
    (link, comparable(title))
    for title, link in re.findall(
        r"^  title *= \{([^\n]+)\},$.*?^  url *= \{([^\n]+)\}$",
        (FOLDER / "references.bib").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook):
    """The text of all markdown cells, without fenced code."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)


def tagged(notebook, tag):
    return [cell for cell in code_cells(notebook) if tag in cell.metadata.get("tags", [])]


def executed(notebook, path):
    found = []
    for position, cell in enumerate(code_cells(notebook), start=1):
        if not cell.source.strip():
            found.append(f"code cell {position} is empty")
        elif cell.execution_count != position:
            found.append(f"code cell {position} has the execution count {cell.execution_count}")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"code cell {position} shows an error: {output.ename}")
            if output.get("name") == "stderr":
                found.append(f"code cell {position} has stderr")
    return found


def form(notebook, path):
    return notebooks.faults(path)


def size(notebook, path):
    return [f"{path.stat().st_size} bytes"] if path.stat().st_size > LARGEST else []


def tags(notebook, path):
    found = []
    if len(tagged(notebook, "parameters")) != 1:
        found.append(f"{len(tagged(notebook, 'parameters'))} code cells are tagged parameters")
    checked = tagged(notebook, "nbval-check-output")
    if not any(cell.outputs for cell in checked):
        found.append("no cell with output is tagged nbval-check-output")
    if tagged(notebook, "raises-exception"):
        found.append("raises-exception: papermill stops there; show errors with try and except")
    return found


def alt_texts(notebook, path):
    found = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            for kind in output.get("data", {}):
                if kind.startswith("image/"):
                    alt = output.metadata.get(kind, {}).get("alt", "")
                    if len(alt.strip()) < SHORTEST_ALT:
                        found.append(f"In [{cell.execution_count}]: {kind} with the alt text {alt!r}")
    texts = [markdown(notebook)]
    texts += [
        output.data.get("text/html", "")
        for c in code_cells(notebook)
        for output in c.outputs
        if "data" in output
    ]
    for text in texts:
        found += [f"image without alt text: {image}" for image in re.findall(r"!\[\s*\]\([^)]*\)", text)]
        found += [
            f"image without alt text: {image[:80]}"
            for image in re.findall(r"<img\b[^>]*>", text)
            if not re.search(r"\balt\s*=\s*[\"'][^\"']+[\"']", image)
        ]
    return found


def headings(notebook, path):
    text = markdown(notebook)
    found = [] if re.search(r"^# \S", text, re.MULTILINE) else ["no level-1 heading"]
    if path.stem in NEW_FORM:  # test_new_form.py has their headings
        return found
    second = re.findall(r"^## +(.+)$", text, re.MULTILINE)
    return found + [
        f"no level-2 heading with {part!r}"
        for part in REQUIRED_HEADINGS
        if not any(part in line for line in second)
    ]


def reading_time(notebook, path):
    stated = re.findall(r"^\*\*Time\*\* (\d+) minutes to read, ", notebook.cells[0].source, re.MULTILINE)
    measured = notebooks.reading_minutes(notebook)
    return [] if stated == [str(measured)] else [f"{stated} minutes to read are stated, {measured} measured"]


def references(notebook, path):
    """Every title in the list of references is a link, and the bibliography has it with the same link."""
    items = re.findall(r"^- .+$", markdown(notebook).rpartition("## References")[2], re.MULTILINE)
    found = []
    for item in items:
        link = re.search(r"\*\[([^\]]+)\]\((https://[^)\s]+)\)\.\*", item)
        if link is None:
            if not re.match(r"- (\[[A-Z]\]|The source document)", item):
                found.append(f"no link in: {item}")
        elif not link[2].startswith("https://github.com/") and (link[2], comparable(link[1])) not in PAPERS:
            found.append(f"not in references.bib: {link[1]} ({link[2]})")
    return found


def paths(notebook, path):
    found = []
    for cell in notebook.cells:
        texts = [cell.source]
        for output in cell.get("outputs", []):
            shown = [text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")]
            texts += [
                text if isinstance(text, str) else json.dumps(text)
                for text in [output.get("text", ""), *shown]
            ]
        found += [
            f"absolute path in {cell.id}: {m[0]}" for text in texts for m in ABSOLUTE_PATH.finditer(text)
        ]
    return found


def widgets(notebook, path):
    """A picture that a reader can change is made by page.interact: in an `Output` context a run may hang for ever."""
    return [
        f"In [{cell.execution_count}]: {found}; use page.interact"
        for cell in code_cells(notebook)
        for found in re.findall(
            r"\w+(?<!\bpage)\.(?:interact\w*|Output)\b|from ipywidgets\b.+|@interact\w*", cell.source
        )
    ]


def exercises(notebook, path):
    found = []
    cells = code_cells(notebook)
    grading = [cell.metadata.get("nbgrader", {}) for cell in cells]
    ids = [entry["grade_id"] for entry in grading if "grade_id" in entry]
    found += [
        f"grade_id {name} is used {ids.count(name)} times" for name in sorted(set(ids)) if ids.count(name) > 1
    ]
    for position, (cell, entry) in enumerate(zip(cells, grading, strict=True)):
        delimiters = ("### BEGIN SOLUTION" in cell.source, "### END SOLUTION" in cell.source)
        if not entry.get("solution"):
            if any(delimiters):
                found.append(
                    f"In [{cell.execution_count}] holds a solution and is not marked as one for nbgrader"
                )
            continue
        name = entry.get("grade_id") or f"In [{cell.execution_count}]"
        if not entry.get("grade_id"):
            found.append(f"{name} has no grade_id")
        if not all(delimiters):
            found.append(f"{name} has no ### BEGIN SOLUTION or no ### END SOLUTION")
        following = grading[position + 1] if position + 1 < len(cells) else {}
        if not (following.get("grade") and following.get("points", 0) > 0 and not following.get("solution")):
            found.append(f"{name} is not followed by a graded check with points")
    count = sum(bool(entry.get("solution")) for entry in grading)
    return found if count >= EXERCISES else [*found, f"{count} exercises; at least {EXERCISES} are wanted"]


def exercise_setup(notebook, path):
    """When exercises are graded, every name is bound by a tagged cell, the cell itself or an earlier exercise."""
    found, bound = [], set(dir(builtins))
    for cell in code_cells(notebook):
        if grading.SETUP not in cell.metadata.get("tags", []) and "nbgrader" not in cell.metadata:
            continue
        top = symtable.symtable(cell.source, "cell", "exec")
        bound |= {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
        tables = [top]
        for table in tables:
            tables += table.get_children()
        used = {
            symbol.get_name()
            for table in tables
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (table is top or symbol.is_global())
        }
        found += [f"In [{cell.execution_count}] uses {name}: tag its cell" for name in sorted(used - bound)]
    return found


def student_copy(notebook, path):
    """What nbgrader gives to students holds no solution, not even in another cell."""
    from nbgrader.preprocessors import ClearSolutions

    blocks = re.compile(r"### BEGIN SOLUTION\n(.*?)\n\s*### END SOLUTION", re.DOTALL)
    solutions = [block for cell in code_cells(notebook) for block in blocks.findall(cell.source)]
    try:
        given, _ = ClearSolutions().preprocess(copy.deepcopy(notebook), {})
    except RuntimeError as error:
        return [f"nbgrader refuses the notebook: {error}"]
    text = "\n".join(cell.source for cell in given.cells)
    found = ["a delimiter of a solution is left"] if re.search("(BEGIN|END) SOLUTION", text) else []
    bare = re.sub(r"\s+", " ", text)
    return found + [
        f"a solution stands elsewhere too: {solution.strip().splitlines()[0]}"
        for solution in solutions
        if re.sub(r"\s+", " ", solution).strip() in bare
    ]


def seeds(notebook, path):
    """`seed` decides on what the default run shows; `real_data_seed` on the experiment on real data alone."""
    found = []
    with_real_data = [cell for cell in code_cells(notebook) if "records.on_real_data" in cell.source]
    others = [
        cell for cell in code_cells(notebook) if cell not in with_real_data + tagged(notebook, "parameters")
    ]
    for name in set(notebooks.parameters(notebook)) & {"seed", "real_data_seed"}:
        if name == "seed" and not any(name in globals_read(cell.source) for cell in others):
            found.append("nothing that the default run shows depends on `seed`: name it real_data_seed")
        if name == "real_data_seed" and any(name in globals_read(cell.source) for cell in others):
            found.append("`real_data_seed` is read by more than the experiment on real data: name it seed")
    return found


def globals_read(source):
    """The names of the notebook that a cell reads: not those that its functions and comprehensions bind."""
    if not source.strip():
        return set()

    def names(table):
        for symbol in table.get_symbols():
            if symbol.is_global() or (table.get_type() == "module" and symbol.is_referenced()):
                yield symbol.get_name()
        for child in table.get_children():
            yield from names(child)

    return set(names(symtable.symtable(source, "cell", "exec")))


def record_names(notebook, path):
    """`records.repeat` adds the name of the data set to that of a record; a chapter that does so too adds it twice."""
    found = []
    for cell in code_cells(notebook):
        if "records.repeat(" not in cell.source:
            continue
        tree = ast.parse(cell.source)
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        named = [call.args[0] for call in calls if ast.unparse(call.func) == "records.repeat"]
        variables = {node.id for name in named for node in ast.walk(name) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and variables & {ast.unparse(t) for t in node.targets}:
                named.append(node.value)
        found += [
            f"a record is named {ast.unparse(name)}" for name in named if "dataset" in ast.unparse(name)
        ]
    return found


RULES = [
    executed,
    form,
    size,
    tags,
    alt_texts,
    headings,
    reading_time,
    references,
    paths,
    widgets,
    exercises,
    exercise_setup,
    student_copy,
    seeds,
    record_names,
]


def studies(notebook, path):
    """Studies name themselves and lead back to their chapter; they have no exercises."""
    text = markdown(notebook)
    found = [] if re.search(r"^# \S", text, re.MULTILINE) else ["no level-1 heading"]
    if f"](../{path.name}" not in text:
        found.append(f"no link to its chapter, ../{path.name}")
    if any("nbgrader" in cell.metadata for cell in notebook.cells):
        found.append("an exercise: those are in chapters, where they are graded")
    if tagged(notebook, "raises-exception"):
        found.append("raises-exception: papermill stops there; show errors with try and except")
    return found


RULES_OF_STUDIES = [executed, form, size, alt_texts, references, paths, widgets, seeds, record_names, studies]


def test_there_are_notebooks():
    assert BOOK, f"no notebooks in {FOLDER}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", BOOK, ids=lambda path: path.stem)
def test_every_notebook_keeps_every_rule(path, rule):
    found = rule(notebooks.read(path), path)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule", RULES_OF_STUDIES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"studies/{path.stem}")
def test_all_studies_keep_their_rules(path, rule):
    found = rule(notebooks.read(path), path)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", sorted((FOLDER / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_fits_the_notebooks(path):
    book = notebooks.book(FOLDER)
    profiles.resolve(book, book, profile=profiles.load(path.stem, FOLDER / "profiles"))


# The rules themselves: a notebook that keeps them all, then one fault at a time.


TIME = "**Time** 0 minutes to read, less than 60 seconds to run."


def good_notebook():
    def code(source, number, *outputs, **metadata):
        return new_code_cell(
            source, execution_count=number, outputs=list(outputs), metadata=metadata, id=f"code-{number}"
        )

    def printed(text):
        return new_output("stream", name="stdout", text=text)

    image = new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"})
    image.metadata = {"image/png": {"alt": "Accuracy falls as the cost goes down."}}
    cells = [new_markdown_cell("# A chapter\n\n![a small network](network.png)\n\n" + TIME, id="title")]
    cells += [
        new_markdown_cell(f"## {part}\n\nA path such as data/results.", id=f"part-{number}")
        for number, part in enumerate(REQUIRED_HEADINGS)
    ]
    cells += [
        code("seed = 0", 1, tags=["parameters", "exercise-setup"]),
        code("print(1 + seed)", 2, printed("2\n"), tags=["nbval-check-output"]),
        code("page.interact(plot, ipywidgets.FloatSlider())", 3, image),
    ]
    for number in range(EXERCISES):
        solution = f"def double_{number}(x):\n    ### BEGIN SOLUTION\n    return {number + 2} * x\n    ### END SOLUTION"
        grading = {"schema_version": 3, "task": False, "locked": False, "points": 1}
        cells += [
            code(
                solution,
                4 + 2 * number,
                nbgrader={**grading, "grade": False, "solution": True, "grade_id": f"double-{number}"},
            ),
            code(
                f"assert double_{number}(1) + seed",
                5 + 2 * number,
                nbgrader={
                    **grading,
                    "grade": True,
                    "solution": False,
                    "locked": True,
                    "grade_id": f"check-{number}",
                },
            ),
        ]
    return notebooks.normalise(new_notebook(cells=cells))


def code(notebook, number):
    return next(cell for cell in notebook.cells if cell.id == f"code-{number}")


def broken(rule, expected, name):
    """Register one fault: what it is called, the rule that must see it, what the rule must say."""

    def register(change):
        FAULTS.append(pytest.param(change, rule, expected, id=name))
        return change

    return register


FAULTS = []


@broken(executed, "code cell 3 has the execution count None", "a cell that was not run")
def _(nb):
    code(nb, 3).execution_count = None


@broken(executed, "code cell 2 has the execution count 7", "a cell run out of order")
def _(nb):
    code(nb, 2).execution_count = 7


@broken(executed, "code cell 3 shows an error: ValueError", "an error")
def _(nb):
    code(nb, 3).outputs.append(new_output("error", ename="ValueError", evalue="", traceback=[]))


@broken(executed, "code cell 3 has stderr", "a warning")
def _(nb):
    code(nb, 3).outputs.append(new_output("stream", name="stderr", text="warning"))


@broken(executed, "code cell 3 is empty", "an empty cell")
def _(nb):
    code(nb, 3).source = "\n"


@broken(form, "notebook metadata is not normalised", "a version of Python")
def _(nb):
    nb.metadata.language_info["version"] = "3.11"


@broken(form, "metadata to drop: execution", "times of a run")
def _(nb):
    code(nb, 2).metadata["execution"] = {"iopub.status.busy": "2026-01-01"}


@broken(size, "bytes", "a notebook too large")
def _(nb):
    code(nb, 3).outputs[0].data["image/png"] = "A" * LARGEST


@broken(tags, "0 code cells are tagged parameters", "no parameters")
def _(nb):
    code(nb, 1).metadata = {}


@broken(tags, "2 code cells are tagged parameters", "two cells of parameters")
def _(nb):
    code(nb, 3).metadata["tags"] = ["parameters"]


@broken(tags, "no cell with output is tagged nbval-check-output", "nothing compared")
def _(nb):
    code(nb, 2).metadata = {}


@broken(tags, "no cell with output is tagged nbval-check-output", "nothing to compare with")
def _(nb):
    code(nb, 2).outputs = []


@broken(tags, "raises-exception", "a cell that stops papermill")
def _(nb):
    code(nb, 3).metadata["tags"] = ["raises-exception"]


@broken(alt_texts, "In [3]: image/png with the alt text ''", "a figure without alt text")
def _(nb):
    code(nb, 3).outputs[0].metadata = {}


@broken(alt_texts, "In [3]: image/png with the alt text 'figure'", "an alt text that says nothing")
def _(nb):
    code(nb, 3).outputs[0].metadata = {"image/png": {"alt": "figure" + " " * 20}}
    code(nb, 3).outputs[0].metadata["image/png"]["alt"] = "figure"


@broken(alt_texts, "In [3]: image/svg+xml", "a drawing without alt text")
def _(nb):
    code(nb, 3).outputs[0].data["image/svg+xml"] = "<svg/>"


@broken(alt_texts, "image without alt text: ![](network.png)", "a markdown image without alt text")
def _(nb):
    nb.cells[0].source = "# A chapter\n\n![](network.png)"


@broken(alt_texts, 'image without alt text: <img src="a.png" alt="">', "an HTML image without alt text")
def _(nb):
    nb.cells[0].source += '\n\n<img src="a.png" alt="">'


@broken(alt_texts, "image without alt text: <img src", "an HTML image in an output")
def _(nb):
    code(nb, 3).outputs[0].data["text/html"] = "<img src='a.png'>"


@broken(headings, "no level-2 heading with 'Quiz'", "a part left out")
def _(nb):
    nb.cells = [cell for cell in nb.cells if "Quiz" not in cell.source]


@broken(headings, "no level-2 heading with 'Quiz'", "a part at another level, and in a code block")
def _(nb):
    for cell in nb.cells:
        cell.source = cell.source.replace("## Quiz", "### Quiz\n\n```\n## Quiz\n```")


@broken(headings, "no level-1 heading", "no title")
def _(nb):
    nb.cells[0].source = "A chapter"


@broken(paths, "absolute path in code-3: /home/a", "a home folder in the source")
def _(nb):
    code(nb, 3).source = "open('/home/anna/data.npz')"


@broken(paths, "absolute path in code-2: /tmp/i", "a temporary folder in an output")
def _(nb):
    code(nb, 2).outputs[0].text = "saved in /tmp/ipykernel_1/a.png\n"


@broken(paths, "absolute path in code-3: C:\\U", "a Windows path in an output")
def _(nb):
    code(nb, 3).outputs[0].data["text/plain"] = "saved in C:\\Users\\anna"


@broken(widgets, "In [3]: ipywidgets.interactive; use page.interact", "an interactive widget of ipywidgets")
def _(nb):
    code(nb, 3).source = "ipywidgets.interactive(plot, x=slider)"


@broken(widgets, "In [3]: w.interact; use page.interact", "a picture under an Output widget, by another name")
def _(nb):
    code(nb, 3).source = "import ipywidgets as w\nw.interact(plot, x=2)"


@broken(widgets, "In [3]: ipywidgets.Output; use page.interact", "an Output widget")
def _(nb):
    code(nb, 3).source = "with ipywidgets.Output():\n    plot()"


@broken(widgets, "In [3]: from ipywidgets import interact; use", "what ipywidgets offers under a bare name")
def _(nb):
    code(nb, 3).source = "from ipywidgets import interact\n\ninteract(plot, x=2)"


@broken(exercises, "grade_id double-0 is used 2 times", "a grade_id twice")
def _(nb):
    code(nb, 6).metadata["nbgrader"]["grade_id"] = "double-0"


@broken(exercises, "In [4] has no grade_id", "no grade_id")
def _(nb):
    del code(nb, 4).metadata["nbgrader"]["grade_id"]


@broken(exercises, "double-0 has no ### BEGIN SOLUTION", "no delimiters")
def _(nb):
    code(nb, 4).source = "def double_0(x):\n    return 2 * x"


@broken(exercises, "double-0 is not followed by a graded check", "a check that is not graded")
def _(nb):
    code(nb, 5).metadata = {}


@broken(exercises, "double-0 is not followed by a graded check", "a check without points")
def _(nb):
    code(nb, 5).metadata["nbgrader"]["points"] = 0


@broken(exercises, "double-2 is not followed by a graded check", "no check after the last exercise")
def _(nb):
    nb.cells.remove(code(nb, 9))


@broken(exercises, "2 exercises; at least 3", "too few exercises")
def _(nb):
    nb.cells = nb.cells[:-2]


@broken(exercises, "In [3] holds a solution and is not marked", "a solution that nbgrader does not know")
def _(nb):
    code(nb, 3).source = "### BEGIN SOLUTION\nx = 3\n### END SOLUTION"


@broken(reading_time, "['0'] minutes to read are stated, 5 measured", "a chapter that has grown")
def _(nb):
    nb.cells[1].source += "\n\n" + "word " * 900


@broken(reading_time, "[] minutes to read are stated", "a chapter that does not say how long it is")
def _(nb):
    nb.cells[0].source = "# A chapter"


@broken(references, "no link in: - Hinton", "a paper without a link")
def _(nb):
    nb.cells[10].source += "\n\n- Hinton (2015). *Distilling the Knowledge in a Neural Network.*"


@broken(references, "not in references.bib: Distilling", "a paper with the link of another")
def _(nb):
    title = "Distilling the Knowledge in a Neural Network"
    nb.cells[10].source += f"\n\n- Hinton (2015). *[{title}](https://arxiv.org/abs/1503.02532).*"


@broken(exercise_setup, "In [5] uses seed: tag its cell", "a tag forgotten, and a check that needs it")
def _(nb):
    code(nb, 1).metadata["tags"] = ["parameters"]


@broken(
    exercise_setup, "In [4] uses factor: tag its cell", "an answer that needs what an untagged cell binds"
)
def _(nb):
    code(nb, 3).source = "factor = 2"
    code(nb, 4).source = code(nb, 4).source.replace("2 * x", "factor * x")


@broken(student_copy, "nbgrader refuses the notebook", "a solution without its end")
def _(nb):
    code(nb, 4).source = "def double_0(x):\n    ### BEGIN SOLUTION\n    return 2 * x"


@broken(student_copy, "a solution stands elsewhere too: return 2 * x", "a solution given away in the prose")
def _(nb):
    nb.cells[-1].source += "\n# hint: return  2 * x"


@broken(seeds, "nothing that the default run shows depends on `seed`", "a seed that nothing reads by default")
def _(nb):
    code(nb, 2).source = "print([seed for seed in range(2)])\ndef f(seed): return seed"
    code(nb, 3).source = "records.on_real_data('a', lambda: seed, real_data)"
    for cell in nb.cells:
        cell.source = cell.source.replace("(1) + seed", "(1)")


@broken(seeds, "`real_data_seed` is read by more", "a seed of the real data that is read elsewhere")
def _(nb):
    code(nb, 1).source = "real_data_seed = 0"
    code(nb, 3).source = "def f():\n    return real_data_seed"


@broken(record_names, "a record is named f'03-{dataset.name}'", "a record with its data set in its name")
def _(nb):
    code(nb, 3).source = "name = f'03-{dataset.name}'\nrecords.repeat(name, runs, execute)"


@pytest.fixture
def written(tmp_path):
    def write(notebook):
        path = tmp_path / "made-up.ipynb"
        path.write_text(notebooks.to_text(notebook))
        return path

    return write


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_keeps_every_rule(written, rule):
    path = written(good_notebook())
    nbformat.validate(notebooks.read(path))
    assert rule(notebooks.read(path), path) == []


@pytest.mark.parametrize(("change", "rule", "expected"), FAULTS)
def test_each_fault_is_seen_by_its_rule(written, change, rule, expected):
    notebook = good_notebook()
    change(notebook)
    path = written(notebook)
    assert expected in "\n".join(rule(notebooks.read(path), path))


def test_good_studies_keep_their_rules_and_each_fault_is_seen(written):
    notebook = good_notebook()
    notebook.cells = [c for c in notebook.cells if "nbgrader" not in c.metadata]
    notebook.cells[0].source += "\n\nStudies of [the chapter](../made-up.ipynb#results)."
    path = written(notebook)
    for rule in RULES_OF_STUDIES:
        assert rule(notebooks.read(path), path) == []
    notebook.cells[0].source = "[the chapter](made-up.ipynb)"
    code(notebook, 2).metadata["tags"] = ["raises-exception"]
    notebook.cells.append(code(good_notebook(), 4))
    found = "\n".join(studies(notebook, path))
    for part in (
        "no level-1 heading",
        "no link to its chapter, ../made-up.ipynb",
        "an exercise",
        "raises-ex",
    ):
        assert part in found


@pytest.mark.parametrize(
    "text",
    ["see https://example.org/home/page", "data/usr/x", "</td></tr>", "a ~/home-work/b", "1/opt/2", "B/G/O"],
)
def test_what_only_looks_like_an_absolute_path_is_let_through(text):
    notebook = new_notebook(cells=[new_markdown_cell(text)])
    assert paths(notebook, None) == []
