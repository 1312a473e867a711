"""A busy machine is told from a quiet one by how evenly equal pieces of work run, on a clock of the test's own."""

import itertools

import pytest
import torch

from course_lib.book.run import quiet


class Machine:
    """Work that takes the given times, one after the other, again and again; its clock stands still otherwise."""

    def __init__(self, *seconds):
        self.now = 0.0
        self.taken = itertools.cycle(seconds)
        self.done = 0

    def work(self):
        self.now += next(self.taken)
        self.done += 1

    def clock(self):
        return self.now


def measured(*seconds, pieces=100):
    machine = Machine(*seconds)
    return quiet.unevenness(machine.work, pieces=pieces, clock=machine.clock)


def test_equal_pieces_give_one_and_the_first_is_not_counted():
    assert measured(1.0) == pytest.approx(1.0)
    machine = Machine(0.1, *[1.0] * 30)  # only what warms up is short
    assert quiet.unevenness(machine.work, pieces=30, clock=machine.clock) == pytest.approx(1.0)
    assert machine.done == 31


@pytest.mark.parametrize(
    ("interrupted", "ratio"),
    [(1, 1.0), (4, 1.0), (5, 5.0), (19, 5.0)],
)
def test_it_takes_a_quarter_of_interrupted_pieces_to_be_busy(interrupted, ratio):
    """Of 20 pieces: the few that something interrupts on every machine are let through."""
    assert measured(*[1.0] * (20 - interrupted), *[5.0] * interrupted) == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("ratio", "said"), [(1.0, ""), (1.05, ""), (1.5, ""), (1.51, "busy"), (3.8, "3.8 times")]
)
def test_a_machine_is_busy_above_the_limit(monkeypatch, ratio, said):
    monkeypatch.setattr(quiet, "unevenness", lambda: ratio)
    assert (quiet.trouble() == "") == (said == "")
    assert said in quiet.trouble()


def test_the_work_itself_runs_on_one_thread_and_leaves_their_number_alone():
    threads = torch.get_num_threads()
    seen = []
    assert quiet.unevenness(lambda: seen.append(torch.get_num_threads()), pieces=2) > 0
    assert set(seen) == {1}
    assert torch.get_num_threads() == threads
    assert quiet.unevenness(pieces=3) >= 1
