"""Control groups, on files that look like them: none can be made on most machines that run the tests."""

from pathlib import Path

import pytest

from course_lib.book.classroom import control_groups, sandbox

MEMORY = 512 * 2**20


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A hierarchy as systemd makes it for a user: his programs in groups of their own below one that is his."""
    parent = tmp_path / "user.slice" / "app.slice"
    (parent / "terminal.scope").mkdir(parents=True)
    (parent / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (tmp_path / "own").write_text("1:name=systemd:/\n0::/user.slice/app.slice/terminal.scope\n")
    found = control_groups.parent
    monkeypatch.setattr(control_groups, "parent", lambda: found(tmp_path, tmp_path / "own"))
    return parent


def test_a_control_group_takes_the_limits_and_is_gone_afterwards(groups, monkeypatch):
    assert "held by a control group, disk by a look" in sandbox.described(None)
    with control_groups.limited(control_groups.parent(), MEMORY, 7) as group:
        assert group.parent == groups
        assert (group / "memory.max").read_text() == str(MEMORY)
        assert (group / "pids.max").read_text() == "7"
        assert (group / "memory.swap.max").read_text() == "0"
        assert not control_groups.out_of_memory(group)
        (group / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
        assert control_groups.out_of_memory(group)
        for entry in group.iterdir():
            entry.unlink()  # the kernel's own files go with the group
    assert not group.exists()


@pytest.mark.parametrize("given", ["cpu memory\n", ""])
def test_where_the_group_above_gives_no_limits_there_is_none(groups, given):
    (groups / "cgroup.subtree_control").write_text(given)
    assert "held by a look every 0.2 s, disk by a folder in memory of 1 MB" in sandbox.described(2**20)
    with control_groups.limited(control_groups.parent(), MEMORY, 512) as group:
        assert group is None


def test_a_group_that_cannot_be_made_costs_nothing(groups, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError("mkdir")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with control_groups.limited(control_groups.parent(), MEMORY, 512) as group:
        assert group is None
