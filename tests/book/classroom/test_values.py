"""Values between two processes: what goes comes, and nothing that comes is run."""

import base64
import contextlib
import io
import json
import socket
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.book.classroom import values
from course_lib.book.classroom.values import Answer, pack, unpack

pytestmark = pytest.mark.bad_input

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=8,
)


def sent(value):
    """As the other process gets it."""
    return unpack(json.loads(json.dumps(pack(value))))


@given(plain)
def test_plain_values_come_as_they_went(value):
    found = sent(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value",
    [torch.tensor([[0.1, -2.5], [1e-30, 3.0]]), torch.tensor(3), torch.empty(0, 2), torch.tensor([True]),
     torch.ones(2, dtype=torch.bfloat16),
     torch.arange(6).reshape(2, 3).T, torch.tensor([float("nan")]), torch.ones(2, requires_grad=True),
     np.arange(6, dtype=np.uint8).reshape(2, 3), np.zeros((0, 2)), np.array(["a"]), np.float64(0.1), np.bool_(True)],
    ids=str,
)  # fmt: skip
def test_arrays_tensors_and_numbers_come_as_they_went(value):
    found = sent(value)
    assert (type(found), found.dtype, found.shape) == (type(value), value.dtype, value.shape)
    if isinstance(value, torch.Tensor):
        torch.testing.assert_close(found, value.detach(), rtol=0, atol=0, equal_nan=True)
    else:
        np.testing.assert_array_equal(found, value)


def test_a_table_comes_with_its_order_and_its_gaps():
    frame = pd.DataFrame({"rate": [0.1, 0.2, np.nan], "teacher": [None, "vgg", "mlp"], "seed": [1, 2, 3]})
    frame = frame.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(sent(frame), frame)


class Odd:
    def __reduce__(self):
        return (print, ("run",))

    def __repr__(self):
        return "odd" * 1000


def test_of_anything_else_the_type_and_how_it_is_shown_are_left(capsys):
    found = sent([Odd(), torch.nn.ReLU(), {1: len}])
    assert [type(one).__name__ for one in found[:2]] == ["Odd", "ReLU"]
    assert (repr(found[0])[:4], len(repr(found[0])), repr(found[1])) == ("oddo", 200, "ReLU()")
    assert sent(range(3)) == sent(iter([0, 1, 2])) == [0, 1, 2]
    objects = np.array([Odd()])
    assert not isinstance(sent(objects), np.ndarray)
    assert not capsys.readouterr().out


def served(functions):
    """An `Answer` maker whose functions are served by a thread, and what ends it."""
    here, there = socket.socketpair()

    def serve():
        with there, there.makefile("rwb") as stream:
            while (asked := values._receive(stream)) is not None:
                try:
                    reply = values._called(asked, functions)
                except Exception as error:
                    reply = {"error": [type(error).__name__, str(error)]}
                values._send(stream, reply)

    thread = threading.Thread(target=serve)
    thread.start()
    stream = here.makefile("rwb")

    def end():
        stream.close()
        here.close()
        thread.join()

    return (lambda name: Answer(name, stream)), end


def test_a_function_elsewhere_is_called_as_one_here():
    def double(x, *, times=2):
        return x * times

    def spoil(weights, table, number):
        weights[0].mul_(0)
        table["a"] = 3
        number += 1
        return number

    def widen(frame, gap):
        frame["b"] = 1
        return len([*frame])

    def unfit(x):
        return x.requires_grad or torch.is_grad_enabled()

    answer, end = served({"double": double, "spoil": spoil, "widen": widen, "unfit": unfit, "five": 5})
    try:
        assert (answer("double")(3), answer("double")(x=3, times=4)) == (6, 12)
        assert answer("double").__name__ == "double"
        weights, table, number = [torch.ones(2), torch.ones(1)], {}, np.zeros(2)
        answer("spoil")(weights, table, number)
        assert ([w.tolist() for w in weights], table, number.tolist()) == ([[0, 0], [1]], {"a": 3}, [1, 1])
        frame = pd.DataFrame({"a": [np.nan]})
        assert answer("widen")(frame, np.array([np.nan])) == 2
        assert [*frame] == ["a"]
        with torch.no_grad():
            assert not answer("unfit")(torch.ones(1))
        with pytest.raises(TypeError, match="'int' object is not callable"):
            answer("five")()
        with pytest.raises(TypeError, match="unexpected keyword argument 'by'"):
            answer("double")(3, by=1)
        with pytest.raises(NameError, match="name 'absent' is not defined"):
            answer("absent")()
    finally:
        end()


class Mine(KeyError):
    pass


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(NotImplementedError("a"), NotImplementedError), (KeyError("a"), KeyError), (Mine("a"), Exception)],
)
def test_what_a_function_raises_is_raised_by_name_with_its_text(raised, kind):
    def fails():
        raise raised

    answer, end = served({"fails": fails})
    try:
        with pytest.raises(kind) as caught:
            answer("fails")()
        assert (type(caught.value).__name__, str(caught.value)) == (type(raised).__name__, str(raised))
    finally:
        end()


HOSTILE = [
    b"", b"\n", b"{", b"3\n", b"{}\n", b"[]\n", b'{"value": {}, "changed": {"dict": []}}\n', b"[" * 10**5 + b"\n",
    b'{"value": {"array": "%s"}, "changed": {"dict": []}}\n' % values._text(np.array([Odd()], object).dumps()).encode(),
    b'{"value": {"tensor": "AAAA"}, "changed": {"dict": []}}\n', b'{"value": 1, "changed": {"dict": [[7, 1]]}}\n',
    b'{"value": {"pickle": "AAAA"}, "changed": {"dict": []}}\n', b'{"error": ["SystemExit", "0"]}\n',
    b'{"error": ["a b", ""]}\n', b'{"error": []}\n', b'{"error": null}\n', b'{"value": ' + b"9" * 5000 + b"}\n",
    b'{"value": {"other": ["a\\u0000", ""]}, "changed": {"dict": []}}\n', b"x" * 70 * 2**20,
]  # fmt: skip


@pytest.mark.parametrize("reply", HOSTILE, ids=lambda reply: repr(reply[:40]))
def test_whatever_comes_back_nothing_is_run_and_it_is_an_error(reply, capsys):
    here, there = socket.socketpair()

    def send():
        with there, contextlib.suppress(OSError):
            there.sendall(reply)

    thread = threading.Thread(target=send)
    thread.start()
    with here, values.messages(here) as stream, pytest.raises(Exception) as caught:  # noqa: PT011
        Answer("double", stream)(3)
    thread.join()
    assert isinstance(caught.value, Exception)
    assert not capsys.readouterr().out


def test_an_archive_is_no_array():
    stream = io.BytesIO()
    np.savez_compressed(stream, zeros=np.zeros(1000))
    packed = pack(np.zeros(2))
    (kind,) = packed
    with pytest.raises(ValueError, match="magic"):
        unpack({kind: base64.b64encode(stream.getvalue()).decode()})
