"""Files appear whole or not at all, and the errors say where and what to do."""

import errno
import os
import random
import resource
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from course_lib import files


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Where things lie


def test_the_root_is_the_checkout(monkeypatch):
    monkeypatch.delenv("COURSE_HOME", raising=False)
    assert files.root() == Path(__file__).resolve().parent.parent


def test_course_home_moves_the_root(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    assert files.root() == tmp_path.resolve()


def test_a_root_without_data_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no data folder.*set COURSE_HOME"):
        files.root()


def test_downloads_go_to_the_argument_then_the_environment_then_the_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_HOME", raising=False)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "environment"))
    assert files.data_root(tmp_path / "argument") == tmp_path / "argument"
    assert files.data_root() == tmp_path / "environment"
    monkeypatch.delenv("COURSE_DATA")
    assert files.data_root() == files.root() / "data" / "downloads"


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_DATA", "~/sets")
    assert files.data_root() == tmp_path / "sets"
    assert files.data_root("~/other") == tmp_path / "other"


# From a wheel; tests/test_wheel.py builds one and runs it


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    """A library as a wheel puts it down, with data and notebooks inside; the working folder is another one."""
    monkeypatch.delenv("COURSE_HOME", raising=False)
    monkeypatch.delenv("COURSE_DATA", raising=False)
    package, here = tmp_path / "site-packages" / "course_lib", tmp_path / "here"
    for folder in (package / "_book" / "data", package / "_book" / "notebooks", here):
        folder.mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    monkeypatch.chdir(here)
    return package / "_book"


def test_a_wheel_is_read_in_the_package_and_written_beside_the_learner(wheel):
    assert files.installed()
    assert files.root() == wheel
    assert files.work() == Path.cwd() != wheel
    assert files.data_root() == Path.cwd() / "data" / "downloads"


def test_a_checkout_around_the_library_and_course_home_come_before_what_a_wheel_brought(
    wheel, monkeypatch, tmp_path
):
    (wheel.parents[1] / "data").mkdir()
    assert files.root() == wheel.parents[1]
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match="gone holds no data folder"):
        files.root()


def test_the_files_of_a_wheel_are_not_changed(wheel):
    with pytest.raises(OSError, match=r"`course train` changes the course's own files.*checkout") as caught:
        files.require_own("`course train`")
    assert caught.value.errno == errno.EROFS
    for change in (
        lambda: files.write_verified({wheel / "data" / "a": b""}),
        lambda: files.record_checksum(wheel / "data" / "a"),
    ):
        with pytest.raises(OSError, match="belong to pip"):
            change()
    assert list((wheel / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ('{"url": "file:///a/b%20c.whl"}', "small-and-fast{} @ file:///a/b%20c.whl"),
        (None, "small-and-fast{}==1.2"),
    ],
)
def test_the_commands_of_a_wheel_name_it_as_it_was_installed(wheel, monkeypatch, address, wanted):
    found = mock.Mock(version="1.2", read_text=lambda name: address)
    pins = wheel.parent / "with space" / "constraints.txt"
    monkeypatch.setattr(files.metadata, "distribution", lambda name: found)
    listed = [SimpleNamespace(name=pins.name, locate=lambda: pins)]
    monkeypatch.setattr(files.metadata, "files", lambda name: listed)
    again = files.remedy("data/glyphs.npz", again="draw")
    assert again == f"python -m pip install --force-reinstall --no-deps {shlex.quote(wanted.format(''))}"
    assert shlex.split(files.installation())[3:] == [
        "install",
        "-c",
        str(pins),
        wanted.format("[learn,pretrained]"),
    ]


# The checkout


@pytest.mark.skipif(
    shutil.which("git") is None or not (files.root() / ".git").exists(), reason="needs git and a checkout"
)
def test_a_clone_with_the_line_endings_of_windows_has_every_file_as_it_was_committed(tmp_path):
    clone = tmp_path / "clone"
    call = [
        "git",
        "clone",
        "--quiet",
        "--depth=1",
        "--config=core.autocrlf=true",
        files.root().as_uri(),
        clone,
    ]
    subprocess.run(call, check=True, capture_output=True)
    recorded = [line.split("  ") for line in (clone / "data/SHA256SUMS").read_text().splitlines()]
    assert len(recorded) > 20
    assert [name for digest, name in recorded if files.sha256(clone / "data" / name) != digest] == []
    # Notebooks, records and the site are compared byte for byte; the Makefile and .ci/run do not run with CRLF.
    call = ["git", "-C", clone, "ls-files", "--eol"]
    listed = subprocess.run(call, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(listed) > len(recorded)
    assert [
        line for line in listed if "w/lf" not in line and "w/-text" not in line and "w/none" not in line
    ] == []


# Digests


def test_the_digest_is_the_published_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert (
        files.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.fixture
def home(monkeypatch, tmp_path):
    (tmp_path / "data" / "results").mkdir(parents=True)
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    return tmp_path


def test_recorded_digests_are_read_back_and_replaced(home):
    first, second = home / "data" / "b set.npz", home / "data" / "results" / "a.csv"
    first.write_bytes(b"abc")
    second.write_bytes(b"")
    assert files.checksums() == {}
    for path in (first, second):
        files.record_checksum(path)
    assert files.checksums() == {"b set.npz": files.sha256(first), "results/a.csv": files.sha256(second)}
    first.write_bytes(b"abcd")
    files.record_checksum(first)
    assert files.checksums() == {"b set.npz": files.sha256(first), "results/a.csv": files.sha256(second)}


def test_recorded_digests_have_the_form_that_sha256sum_checks(home):
    (home / "data" / "abc").write_bytes(b"abc")
    files.record_checksum(home / "data" / "abc")
    assert (home / "data" / "SHA256SUMS").read_text() == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  abc\n"
    )


# Verified


@pytest.fixture
def kept(home):
    """A file that is recorded with its digest."""
    path = home / "data" / "results" / "a.json"
    files.write_verified({path: b'{"test": 0.89}'})
    return path


def test_a_file_that_is_as_recorded_is_read(kept):
    assert files.read_verified(kept) == b'{"test": 0.89}'


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.binary(max_size=40))
def test_any_other_content_is_refused(kept, content):
    kept.write_bytes(content)
    if content == b'{"test": 0.89}':
        assert files.read_verified(kept) == content
    else:
        with pytest.raises(files.DamagedFile, match=r"a\.json is not as recorded: its sha256 is") as caught:
            files.read_verified(kept, "course train a")
        remedy = "git checkout -- data/results/a.json data/SHA256SUMS, or make it again: course train a."
        assert str(caught.value).endswith(remedy)


def test_a_file_without_a_line_is_refused(kept):
    (kept.parent / "b.json").write_text("{}")
    with pytest.raises(
        files.DamagedFile, match=r"b\.json is not as recorded: data/SHA256SUMS has no line for it"
    ):
        files.read_verified(kept.parent / "b.json")


@pytest.mark.parametrize(
    "line", ["abc", "0" * 63 + "  a", "0" * 64, "0" * 64 + " a", "g" * 64 + "  a", "\xff"]
)
def test_a_damaged_list_is_named_with_its_line(kept, line):
    listing = kept.parent.parent / "SHA256SUMS"
    listing.write_bytes(listing.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(
        files.DamagedFile, match=r"line 2 of .*SHA256SUMS is damaged.*git checkout -- data/SHA256SUMS"
    ):
        files.read_verified(kept)


WRITES = """
import sys, pathlib
from course_lib import files
folder, name, count = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
for number in range(count):
    files.write_verified({folder / f"{name}-{number % 10}": f"{name} {number}".encode() * 1000})
"""


def writer(home, name, count):
    call = [sys.executable, "-c", WRITES, home / "data" / "results", name, str(count)]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_writers_lose_no_line(home):
    writers = [writer(home, name, 30) for name in ("a", "b")]
    assert [process.wait(60) for process in writers] == [0, 0]
    assert len(files.checksums()) == 20
    for path in (home / "data" / "results").glob("[ab]-*"):
        files.read_verified(path)


def test_whenever_a_writer_is_killed_each_file_has_a_digest_that_is_listed(home):
    delays = random.Random(0)
    for _ in range(8):
        process = writer(home, "a", 10_000)
        time.sleep(delays.uniform(0.0, 0.1))
        process.kill()
        process.wait()
        for path in (home / "data" / "results").glob("a-*"):
            files.read_verified(path)
    files.write_verified({home / "data" / "results" / "a-0": b"after"})  # no lock is left behind
    assert files.read_verified(home / "data" / "results" / "a-0") == b"after"


def test_a_second_writer_waits_and_says_so_in_the_end(home, monkeypatch):
    monkeypatch.setattr(files, "_PATIENCE", 0.05)
    with files._locked(), pytest.raises(OSError, match="another process has been writing into"):
        files.write_verified({home / "data" / "a": b""})


# Whole or not at all


def test_text_and_bytes_come_back_as_written(tmp_path):
    files.write_text(tmp_path / "text", "größer ≥ 1\n")
    files.write_bytes(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "text").read_bytes() == "größer ≥ 1\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert left_over(tmp_path) == ["bytes", "text"]


def test_missing_folders_are_made(tmp_path):
    files.write_text(tmp_path / "new" / "newer" / "text", "a")
    assert (tmp_path / "new" / "newer" / "text").read_text() == "a"


def test_others_may_read_the_file(tmp_path):
    files.write_text(tmp_path / "text", "a")
    assert stat.S_IMODE((tmp_path / "text").stat().st_mode) == 0o644


def test_until_the_block_ends_a_reader_sees_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with files.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # the same disk, or the renaming would copy
    assert path.read_text() == "new"
    assert left_over(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [KeyError("oops"), KeyboardInterrupt(), ValueError("oops")])
def test_a_failing_or_interrupted_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with files.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert path.read_text() == "old"
    assert left_over(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.HTTPError("http://example.org/x", 404, "Not Found", None, None),
        urllib.error.URLError("no route to host"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "source.gz"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_trouble_with_a_source_is_not_told_as_trouble_with_the_disk(tmp_path, error):
    with pytest.raises(type(error)) as caught, files.atomic_path(tmp_path / "file"):
        raise error
    assert caught.value is error
    assert left_over(tmp_path) == []


def test_a_block_that_moves_its_file_away_is_told_so(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="could not finish writing"),
        files.atomic_path(tmp_path / "file") as temporary,
    ):
        temporary.unlink()
    assert left_over(tmp_path) == []


# The disk


def test_no_room_for_the_rest_of_the_file(tmp_path):
    # The operating system's limit on the size of a file stands in for a full disk.
    path = tmp_path / "file"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"earlier file, if any, is untouched. Free some disk space"
        ) as caught:
            files.write_bytes(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert left_over(tmp_path) == ["file"]


def test_a_full_disk_is_named_with_the_remedy(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(
            OSError,
            match=r"could not finish writing .*file \(No space left on device\).*Free some disk space",
        ),
        files.atomic_path(tmp_path / "file"),
    ):
        raise full
    assert left_over(tmp_path) == []


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(
        OSError, match=rf"cannot write into {tmp_path / 'taken'} \(.*\). Choose another folder"
    ):
        files.write_text(tmp_path / "taken" / "file", "a")
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_folder_without_rights_is_named(tmp_path):
    # Rights do not bind the administrator, who runs tests in containers, so the refusal is staged.
    refusal = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with (
        mock.patch.object(tempfile, "mkstemp", side_effect=refusal),
        pytest.raises(
            PermissionError, match=rf"cannot write into {tmp_path} \(Permission denied\). Choose another"
        ),
    ):
        files.write_text(tmp_path / "file", "a")


def test_a_target_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"could not finish writing .*folder"):
        files.write_text(tmp_path / "folder", "a")
    assert left_over(tmp_path) == ["folder"]


def test_two_writers_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file"
    with files.atomic_path(path) as first, files.atomic_path(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the inner block ends first, so the outer one has the last word
    assert left_over(tmp_path) == ["file"]
