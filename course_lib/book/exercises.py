"""The exercises of a notebook as nbgrader marks them, and what of a handed-in notebook must run to grade them."""

import ast
import re
import symtable
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHECKS = "course_lib.checks"


@dataclass(frozen=True)
class Exercise:
    """One exercise: the cell to be written and the cell that checks it.

    Attributes:
        check: grade_id of the check, such as `check-soften`.
        solution: grade_id of the cell to be written, such as `soften`.
        points: that the check gives.
    """

    check: str
    solution: str
    points: float

    @property
    def name(self) -> str:
        """What a person calls it: the grade_id of the check without its `check-`."""
        return self.check.removeprefix("check-")


@dataclass(frozen=True)
class Names:
    """The global names of a cell.

    Attributes:
        binds: assigned, defined, imported, or changed in place by `name[...] = value` or `name.x = value`.
        uses: read, in functions too; not those that the cell itself has bound before it reads them.
        imports: those of `binds` that are imported.
        calls: whose methods are called as statements, which may change them: `name.append(1)`.
    """

    binds: frozenset[str]
    uses: frozenset[str]
    imports: frozenset[str]
    calls: frozenset[str]


def of(notebook: Any) -> list[Exercise]:
    """The exercises of a notebook, in its order: each graded check with the solution cell before it."""
    found, solution = [], ""
    for cell in notebook.cells:
        entry = cell.metadata.get("nbgrader", {})
        if entry.get("solution"):
            solution = entry["grade_id"]
        elif entry.get("grade"):
            found.append(Exercise(entry["grade_id"], solution, float(entry["points"])))
    return found


def prepare(submission: Any, released: Any, source: Any) -> tuple[Any, list[str]]:
    """The notebook to grade: the learner's cells, the teacher's checks, and nothing that no check depends on.

    Every check stands as the teacher wrote it, right behind the learner's cell for it (or at the end, where that cell
    is gone), whatever became of it in the submission. Before each, the modules of checks that it uses are imported
    anew, so that an answer that has changed them in memory changes nothing. Of the other cells those stay that bind a
    name which a check, an answer or another such cell uses: a chapter trains networks for a minute, and none of that
    is graded. A cell that cannot be analysed (magics, broken syntax, star imports) stays.

    Args:
        submission: the learner's notebook, read as format 4; its metadata may be anything.
        released: the notebook as handed out, with nbgrader's metadata.
        source: the teacher's own.

    Returns:
        A new notebook without outputs, and notes on what was missing.
    """
    from nbformat.v4 import new_notebook

    exercises = of(source)
    handed_out = {entry["grade_id"]: cell for cell, entry in _marked(released)}
    own = {entry["grade_id"]: cell for cell, entry in _marked(source)}
    solutions = {exercise.solution for exercise in exercises}
    checks = {exercise.check for exercise in exercises}
    last = {}  # a cell that was copied keeps its grade_id; the last one counts, as for nbgrader
    for position, cell in enumerate(submission.cells):
        if (name := _grade_id(cell)) in solutions:
            last[name] = position

    cells: list[Any] = []
    for position, cell in enumerate(submission.cells):
        name = _grade_id(cell)
        if last.get(name) == position:
            cells.append(_cell("code", cell.get("source"), handed_out[name]))
            for exercise in exercises:
                if exercise.solution == name:
                    cells += _checking(exercise, handed_out, source)
        elif name not in checks:
            cells.append(_cell(cell.get("cell_type"), cell.get("source")))
    gone = [exercise for exercise in exercises if exercise.solution not in last]
    for exercise in gone:
        cells += _checking(exercise, handed_out, source)

    sources = [own[_grade_id(cell)].source if _grade_id(cell) in checks else cell.source for cell in cells]
    stays = _needed(cells, sources)
    notebook = new_notebook(cells=[cell for cell, kept in zip(cells, stays, strict=True) if kept])
    if "kernelspec" in source.metadata:
        notebook.metadata["kernelspec"] = dict(source.metadata["kernelspec"])
    missing = ", ".join(dict.fromkeys(exercise.solution for exercise in gone))
    return notebook, [f"the cells of these exercises are missing or renamed: {missing}"] if gone else []


def global_names(source: str) -> Names | None:
    """The global names of a cell; None where they cannot be told: magics, broken syntax, star imports."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        code = TransformerManager().transform_cell(source)
        if "get_ipython()" in code and "get_ipython()" not in source:
            return None
        table, tree = symtable.symtable(code, "cell", "exec"), ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    binds, uses, imports, calls = set(), set(), set(), set()
    for symbol in table.get_symbols():
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
            binds.add(symbol.get_name())
    for inner in _below(table):
        for symbol in inner.get_symbols():
            if symbol.is_declared_global() and symbol.is_assigned():
                binds.add(symbol.get_name())
    given: set[str] = set()  # by the cell itself, before they are used
    for statement in tree.body:
        now, later = _used(statement)
        uses |= later | (now - given)
        given |= _surely_bound(statement)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            binds |= _root(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            calls |= _root(node.value.func)
    if "*" in imports:
        return None
    return Names(frozenset(binds | imports), frozenset(uses), frozenset(imports), frozenset(calls - binds))


def _needed(cells: Sequence[Any], sources: Sequence[str]) -> list[bool]:
    """Which cells stay: what is graded, and whatever that depends on; markdown does not.

    The place of a cell does not matter: a function that is defined early may use a name that is bound late.
    """
    found = {
        position: global_names(source)
        for position, source in enumerate(sources)
        if cells[position].cell_type == "code" and source.strip()
    }
    imported = frozenset().union(*(names.imports for names in found.values() if names))
    stays = {
        position
        for position, names in found.items()
        if names is None or "nbgrader" in cells[position].metadata or "guard" in cells[position].metadata
    }
    uses = frozenset().union(*(found[position].uses for position in stays if found[position]))
    while True:
        more = {
            position
            for position, names in found.items()
            if position not in stays and (names.binds | (names.calls - imported)) & uses
        }
        if not more:
            return [position in stays for position in range(len(cells))]
        stays |= more
        uses = uses.union(*(found[position].uses for position in more))


def _checking(exercise: Exercise, handed_out: Mapping[str, Any], source: Any) -> list[Any]:
    """The check of an exercise; before it, a cell that imports the modules of checks afresh."""
    check = next(cell for cell, entry in _marked(source) if entry["grade_id"] == exercise.check)
    wanted = (global_names(check.source) or Names(*[frozenset()] * 4)).uses
    lines = []
    for cell in source.cells:
        if cell.cell_type != "code" or cell.metadata.get("nbgrader"):
            continue
        try:
            tree = ast.parse(cell.source)
        except SyntaxError:
            continue
        for node in tree.body:
            of_checks = (isinstance(node, ast.ImportFrom) and (node.module or "").startswith(CHECKS)) or (
                isinstance(node, ast.Import) and any(alias.name.startswith(CHECKS) for alias in node.names)
            )
            if of_checks and any(
                (alias.asname or alias.name).split(".")[0] in wanted for alias in node.names
            ):
                lines.append(ast.unparse(node))
    guard = []
    if lines:
        guard = [_cell("code", "\n".join([_FORGET, *dict.fromkeys(lines)]))]
        guard[0].metadata["guard"] = True
    return [*guard, _cell("code", handed_out[exercise.check].source, handed_out[exercise.check])]


_FORGET = f"""import sys
for _name in [_name for _name in sys.modules if _name.startswith({CHECKS!r})]:
    del sys.modules[_name]"""


def _marked(notebook: Any) -> list[tuple[Any, Mapping[str, Any]]]:
    marked = [(cell, cell.metadata.get("nbgrader", {})) for cell in notebook.cells]
    return [(cell, entry) for cell, entry in marked if entry.get("grade") or entry.get("solution")]


def _grade_id(cell: Any) -> str | None:
    """What a cell of a submission says that it is; its metadata may be anything."""
    metadata = cell.get("metadata")
    entry = metadata.get("nbgrader") if isinstance(metadata, Mapping) else None
    name = entry.get("grade_id") if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) else None


def _cell(kind: Any, source: Any, like: Any = None) -> Any:
    """A new cell; `like` gives it its marks."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    text = "".join(map(str, source)) if isinstance(source, list) else str(source or "")
    text = re.sub(r"[\ud800-\udfff]", "?", text)  # half of a character, which JSON can hold and a file cannot
    made = new_code_cell(text) if kind == "code" else new_markdown_cell(text)
    if like is not None:
        made.metadata["nbgrader"] = dict(like.metadata.nbgrader)
    return made


def _used(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """The global names that a statement reads when it runs, and those that its functions read when they are called."""
    table = symtable.symtable(ast.unparse(statement), "statement", "exec")
    now = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    if isinstance(statement, ast.AugAssign):
        now |= _root(statement.target) | {getattr(statement.target, "id", "")}
    later = set()
    for inner in _below(table):
        read = {
            symbol.get_name()
            for symbol in inner.get_symbols()
            if symbol.is_global() and symbol.is_referenced()
        }
        later |= read
    return now, later


def _surely_bound(statement: ast.stmt) -> set[str]:
    """The names that are bound once a statement has run, whatever happens in it."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return set()


def _below(table: symtable.SymbolTable) -> list[symtable.SymbolTable]:
    return [found for child in table.get_children() for found in (child, *_below(child))]


def _root(node: ast.AST) -> set[str]:
    """{the name} at the root of name.a[0].b, or nothing."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
        if isinstance(node, ast.Name):
            return {node.id}
    return set()
