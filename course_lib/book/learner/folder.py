"""`course learn` without its command line: a folder of the learner's own, in which no work is ever written over.

The folder remembers what it was given (`.course.json`: SHA-256 digests). A file that is still as it was given may be
replaced by a new version. Any other file is work, or somebody else's: it stays, and the new version is put beside it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from course_lib.book import CourseError, folders, notebooks
from course_lib.book.learner import edition
from course_lib.book.notebooks import Chapter

__all__ = ["DEFAULT", "STATE", "Given", "find", "give", "is_one", "place", "versions"]

DEFAULT = "my-course"
STATE = ".course.json"
_LOCK = ".course.lock"
_STAGED = ".course-staged-"
_PAGES = ("glossary.md",)  # what chapters and studies link to, beside one another
_IGNORE = "# Your own work: the course's repository leaves it alone. Delete this file to keep it in one of yours.\n*\n"


@dataclass
class Given:
    """What `give` did, as names in the folder.

    Attributes:
        new: files that were not there.
        renewed: files that were as given before, and are the course's new version now.
        beside: {file that holds work: where the new version of it was put}.
        ignored: whether the folder was given a .gitignore.
    """

    new: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)
    ignored: bool = False

    def told(self, folder: Path) -> list[str]:
        """What was done, a line each, for who asked for it."""
        lines = [f"Your folder: {folder}"]
        if self.new:
            chapters = [
                name.removesuffix(".ipynb")
                for name in self.new
                if name.endswith(".ipynb") and "/" not in name
            ]
            others = len(self.new) - len(chapters)
            beside = (
                [f"{others} {'files' if others > 1 else 'file'} beside (studies, glossary)"] if others else []
            )
            lines.append(f"New, without solutions: {', '.join(chapters + beside)}")
        if self.renewed:
            lines.append(f"The course has changed, you had not: renewed are {', '.join(self.renewed)}")
        lines += [
            f"The course has changed {name}, and so have you: yours stays, the new one is {beside} beside it"
            for name, beside in self.beside.items()
        ]
        if self.ignored:
            lines.append("Git leaves the folder alone (.gitignore in it).")
        if not (self.new or self.renewed or self.beside):
            lines.append("Nothing new; all is as you left it.")
        return lines


@dataclass
class _State:
    """What a folder remembers: every digest that each file was given with, and the version that its learner knows."""

    given: dict[str, set[str]] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "_State":
        """Read the record; what is damaged counts as not there, and then every file counts as work."""
        state = cls()
        with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
            kept = json.loads((folder / STATE).read_bytes())
            state.known = {str(name): str(digest) for name, digest in kept["known"].items()}
            state.given = {str(name): set(map(str, digests)) for name, digests in kept["given"].items()}
        return state

    def text(self) -> str:
        given = {name: sorted(digests) for name, digests in sorted(self.given.items())}
        return json.dumps({"given": given, "known": self.known}, indent=1, sort_keys=True) + "\n"


def is_one(folder: Path) -> bool:
    """Whether a folder was made by `course learn`."""
    return (folder / STATE).is_file()


def find(folder: Path | None) -> Path:
    """The learner's folder: the one named, else the current one if it is one, else ./my-course."""
    if folder is not None:
        return folder.expanduser()
    return Path.cwd() if is_one(Path.cwd()) else Path.cwd() / DEFAULT


def versions(folder: Path, name: str) -> list[Path]:
    """Files of a notebook in the folder: the one that was given first, then those put beside it."""
    beside = sorted((folder / name).parent.glob(f"{Path(name).name}.new*.ipynb"))
    return [path for path in (folder / f"{name}.ipynb", *beside) if path.is_file()]


def give(folder: Path, words: Sequence[str]) -> tuple[Given, list[Chapter]]:
    """Give a folder the chapters named, without solutions, and their studies.

    Args:
        folder: new, empty, or one that `course learn` has made.
        words: chapters as typed; all of them by default.

    Returns:
        What was done, and the chapters.

    Raises:
        CourseError: an unknown chapter, or a folder that holds something else.
        OSError: the folder cannot be written to; then no work in it has changed.
    """
    book = notebooks.book()
    chosen = notebooks.select(words, [one for one in book if not one.studies])
    folder = _own(folder, book)
    names = {chapter.path.stem for chapter in chosen}
    wanted = {f"{one.name}.ipynb": _content(one) for one in book if one.path.stem in names}
    wanted |= {
        page: (notebooks.folder() / page).read_bytes()
        for page in _PAGES
        if (notebooks.folder() / page).is_file()
    }
    return place(folder, wanted), chosen


def _content(chapter: Chapter) -> bytes:
    """A chapter without solutions and outputs; studies, which hold no exercises, as they are."""
    if chapter.studies:
        return chapter.path.read_bytes()
    try:
        return notebooks.to_text(edition.learners(notebooks.read(chapter.path))).encode()
    except CourseError as error:
        raise CourseError(f"{chapter.path.name}: {error}") from error


def _own(folder: Path, book: Sequence[Chapter]) -> Path:
    """The absolute path of a folder that is a learner's, or may become one."""
    folder = folders.require_free(folder, force=True)
    if folder.is_dir() and not is_one(folder):
        there = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
        if there and not {f"{one.name}.ipynb" for one in book} & set(there):
            raise CourseError(
                f"{folder} holds other files, such as {min(there)}. Name a new folder, or an empty one: --folder"
            )
    return folder


def place(folder: Path, wanted: Mapping[str, bytes]) -> Given:
    """Put files into a learner's folder: none over work, and none if there is no room for all.

    Everything is written beside its place first, so that a full disk is met before anything has changed; then it is
    renamed. The record is renamed first, with the old digests and the new: killed at any moment, a file that was given
    is known as given.

    Args:
        folder: made if there is none.
        wanted: {name, with slashes: content}.

    Raises:
        CourseError: another command is writing into the folder.
        OSError: the folder cannot be written to.
    """
    made = not folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder), _staged(folder) as staged:
            return _place(folder, wanted, staged)
    except OSError as error:
        with contextlib.suppress(OSError):
            if made:
                (folder / _LOCK).unlink(missing_ok=True)
                folder.rmdir()  # if nothing is in it
        raise OSError(
            error.errno,
            f"cannot write into {folder} ({error.strerror or error}); no work in it was touched. "
            "Free some disk space, mend its rights, or choose another folder with --folder",
        ) from error


def _place(folder: Path, wanted: Mapping[str, bytes], staged: Path) -> Given:
    state, done = _State.read(folder), Given()
    begun, ignore = is_one(folder), folder / ".gitignore"
    targets = {name: _target(folder, name, _digest(content), state) for name, content in wanted.items()}
    for number, name in enumerate(wanted):
        target = targets[name]
        state.given.setdefault(target or name, set()).add(_digest(wanted[name]))
        if target is not None:
            (staged / f"{number}").write_bytes(wanted[name])
    (staged / "before").write_text(state.text(), encoding="utf-8")
    state.known |= {name: _digest(content) for name, content in wanted.items()}
    (staged / "after").write_text(state.text(), encoding="utf-8")
    if not begun and not os.path.lexists(ignore) and not (folder / ".git").exists():
        (staged / "ignore").write_text(_IGNORE, encoding="utf-8")
        done.ignored = True
    for target in filter(None, targets.values()):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
    if done.ignored:
        os.replace(staged / "ignore", ignore)
    os.replace(staged / "before", folder / STATE)
    for number, (name, target) in enumerate(targets.items()):
        if target is None:
            continue
        there = os.path.lexists(folder / target)
        if there and _file_digest(folder / target) not in state.given[target]:
            raise CourseError(f"{folder / target} was changed in this moment; run it again")
        os.replace(staged / f"{number}", folder / target)
        if target != name:
            done.beside[name] = target
        else:
            (done.renewed if there else done.new).append(name)
    os.replace(staged / "after", folder / STATE)
    return done


def _target(folder: Path, name: str, digest: str, state: _State) -> str | None:
    """Where a file is to be put: its own name, one beside work, or nowhere where the learner has this version."""
    if not os.path.lexists(folder / name):
        return name
    there = _file_digest(folder / name)
    if there == digest:
        return None
    if there in state.given.get(name, ()):
        return name
    if state.known.get(name) == digest:
        return None
    for beside in _beside(name):
        if not os.path.lexists(folder / beside):
            return beside
        there = _file_digest(folder / beside)
        if there == digest:
            return None
        if there in state.given.get(beside, ()):
            return beside
    raise AssertionError("unreachable: there are endless names")


def _beside(name: str) -> Iterator[str]:
    stem, dot, ending = name.rpartition(".")
    yield f"{stem}.new{dot}{ending}"
    number = 2
    while True:
        yield f"{stem}.new-{number}{dot}{ending}"
        number += 1


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_digest(path: Path) -> str:
    """The digest of a file, or none that a file can have, where there is something else or nothing to be read."""
    try:
        return _digest(path.read_bytes())
    except OSError:
        return "unreadable"


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder to write in before anything is put in its place; what a killed command left of one goes."""
    for left in folder.glob(f"{_STAGED}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_STAGED) as staged:
        yield Path(staged)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CourseError(
            f"another `course learn` is writing into {folder}; wait until it has ended"
        ) from error
    try:
        yield
    finally:
        lock.release()
