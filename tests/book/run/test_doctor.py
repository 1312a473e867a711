"""`course doctor` on a checkout that is whole, and on each fault."""

import pytest

from course_lib import checkpoints, data, files
from course_lib.book.run import doctor

pytestmark = pytest.mark.bad_input


class Splits:
    train, validation, test = [0] * 3, [0] * 2, [0]


def load_dataset(name, *, download=True):
    if name != "glyphs":
        raise data.DatasetError(f"{name} is not here")
    return Splits


def absent(name):
    raise checkpoints.CheckpointError(f"{name} is missing")


@pytest.fixture
def whole(book, monkeypatch):
    """A checkout with everything: notebooks, data and their digests, one checkpoint."""
    book.add("00-why")
    (book.root / "data" / "glyphs.npz").write_bytes(b"glyphs")
    (book.root / "data" / "checkpoints").mkdir()
    (book.root / "data" / "checkpoints" / "net.safetensors").write_bytes(b"weights")
    names = ("glyphs.npz", "checkpoints/net.safetensors")
    lines = [f"{files.sha256(book.root / 'data' / name)}  {name}\n" for name in names]
    (book.root / "data" / "SHA256SUMS").write_text("".join(lines))
    monkeypatch.setattr(checkpoints, "NAMES", ("net",))
    monkeypatch.setattr(checkpoints, "verify", lambda name: None)
    monkeypatch.setattr(data, "NAMES", ("glyphs", "mnist"))
    monkeypatch.setattr(data, "load_dataset", load_dataset)
    return book


def test_a_whole_checkout_can_run_and_real_data_is_only_a_note(whole):
    ended = whole.course("doctor")
    assert ended.status == 0, ended.out
    for part in (
        "python",
        "torch",
        "device",
        "threads",
        "memory",
        "disk",
        "Title of 00-why",
        "2 files are as recorded",
    ):
        assert part in ended.out
    assert "data set mnist (note): for the full profile: course data fetch mnist" in ended.out
    assert "the fast profile can run" in ended.out


def test_every_fault_is_named_with_the_command_that_mends_it(whole, monkeypatch):
    (whole.root / "data" / "glyphs.npz").write_bytes(b"glyph")
    (whole.root / "data" / "checkpoints" / "net.safetensors").unlink()
    whole.path("00-why").unlink()
    (whole.root / "build").write_text("a file in place of the folder")
    monkeypatch.setattr(checkpoints, "verify", absent)
    ended = whole.course("doctor")
    assert ended.status == 1
    for line in (
        "data/glyphs.npz (missing): git checkout -- data/glyphs.npz data/SHA256SUMS",
        "data/checkpoints/net.safetensors (missing): git checkout -- data/checkpoints/net.safetensors data/SHA256SUMS, "
        "or make it again: course train net",
        "checkpoint net (missing): course train net",
        "notebooks (missing): git checkout -- notebooks",
        "build folder (missing): or name another: course run --out DIR",
        "5 things to mend",
    ):
        assert line in ended.out


def of_data(whole, text=None):
    """The findings about the files under data/, with another list of digests or the one that is there."""
    sums = whole.root / "data" / "SHA256SUMS"
    if text is not None:
        sums.write_text(text(sums.read_text()))
    return [(finding.what, finding.state) for finding in doctor._guarded(doctor._data)]


WEIGHTS = "data/checkpoints/net.safetensors"
LIST = "data/SHA256SUMS"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (lambda lines: lines, [(LIST, "ok")]),
        (lambda lines: "", [(LIST, "missing")]),
        (lambda lines: lines[:30], [("data", "missing")]),  # cut within a digest
        (lambda lines: lines.splitlines()[0] + "\n", [(WEIGHTS, "missing"), (LIST, "ok")]),  # a line is gone
        (lambda lines: lines.replace("  checkpoints", "0  checkpoints"), [("data", "missing")]),
        (
            lambda lines: "f" * 64 + lines[64:],
            [("data/glyphs.npz", "missing"), (LIST, "ok")],
        ),  # another digest
    ],
)
def test_a_damaged_list_of_digests_is_a_finding_of_its_own(whole, text, found):
    assert of_data(whole, text) == found


def test_a_file_that_nobody_recorded_is_found(whole):
    (whole.root / "data" / "results").mkdir()
    (whole.root / "data" / "results" / "99-mine.json").write_text("{}")
    assert of_data(whole) == [("data/results/99-mine.json", "missing"), (LIST, "ok")]


def test_a_part_that_breaks_is_a_finding_and_the_others_go_on(whole, monkeypatch):
    def broken(name):
        raise ImportError("no such module")

    monkeypatch.setattr(checkpoints, "verify", broken)
    findings = doctor.examine()
    assert [(f.what, f.detail) for f in findings if f.state == "missing"] == [
        ("checkpoints", "ImportError: no such module")
    ]
    assert any(finding.what == "build folder" for finding in findings)


def test_versions_are_compared_with_the_constraints_and_absent_packages_named(whole, monkeypatch):
    versions = {"numpy": "2.4.6", "torch": "2.15.0+cpu", "PyYAML": "6.0"}

    def version(name):
        if name not in versions:
            raise doctor.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(
        doctor.metadata,
        "requires",
        lambda name: ["numpy>=2", "torch<3", "PyYAML", "rich", "ruff; extra == 'test'"],
    )
    (whole.root / "constraints.txt").write_text("# tested\nNumPy==2.5.0\ntorch==2.15.0\npyyaml==6.0 ; x\n")
    states = {finding.what: (finding.state, finding.detail) for finding in doctor.examine()}
    assert states["torch"] == ("ok", "2.15.0+cpu")
    assert states["PyYAML"] == ("ok", "6.0")
    assert states["numpy"] == ("note", "2.4.6; tested with 2.5.0")
    assert states["rich"] == ("missing", "not installed")
    assert "ruff" not in states


def test_an_unfit_python_is_missing(whole, monkeypatch):
    monkeypatch.setattr(doctor, "_PYTHON", ((3, 98), (3, 99)))
    finding = doctor.examine()[0]
    assert finding.state == "missing"
    assert finding.remedy == f"install Python 3.98 to 3.99, then with it: {files.installation()}"
