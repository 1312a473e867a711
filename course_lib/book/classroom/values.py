"""Values that pass between a check and an answer in two processes: JSON, in it arrays as .npy, tensors as safetensors.

A check knows what is right, and an answer is code that nobody has read. So a check calls an `Answer`, which sends the
arguments to the process of the answer, where `serve` calls the function. What comes back is data, whatever it says:
nothing of it is run. As `changed`, the arguments come back that the function has changed in place.
"""

import base64
import builtins
import contextlib
import io
import json
import socket
import sys
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import IO, Any

__all__ = ["Answer", "messages", "pack", "serve", "unpack"]

_LARGEST = 64 * 2**20  # bytes of one message
_ENDS = (StopIteration, StopAsyncIteration)  # raised in a check, they end a loop of it without a word
_SHOWN = 200  # characters of a value that cannot be sent


class Answer:
    """A learner's function in another process: called with values, it returns a value or raises what the function did.

    Args:
        name: of the function.
        stream: that leads to the process; None as long as none does.
    """

    def __init__(self, name: str, stream: IO[bytes] | None = None):
        self.__name__ = name
        self.stream = stream

    def __call__(self, *values: Any, **named: Any) -> Any:
        given = [*values, *named.values()]
        torch = sys.modules.get("torch")
        gradient = torch is None or torch.is_grad_enabled()
        if self.stream is None:
            raise ConnectionError("a check calls an answer only while it runs")
        _send(
            self.stream,
            {"name": self.__name__, "given": pack(given), "names": [*named], "gradient": gradient},
        )
        reply = _receive(self.stream)
        if reply is None:
            raise ConnectionError("its process did not answer")
        try:
            if "error" in reply:
                error = _error(*reply["error"])
            else:
                error, value, changed = None, unpack(reply["value"]), unpack(reply["changed"])
                for place, now in changed.items():
                    _write_over(given[place], now)
        except Exception as problem:
            raise TypeError(f"what came back is no value ({type(problem).__name__})") from None
        if error is not None:
            raise error
        return value


def serve(path: str, functions: Mapping[str, Any]) -> None:
    """Call functions for an `Answer` in another process, until that has seen enough.

    Args:
        path: of the socket on which it listens.
        functions: by name, such as `globals()`.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        with messages(connection) as stream:
            while (asked := _receive(stream)) is not None:
                try:
                    reply = _called(asked, functions)
                except Exception as error:  # the answer's own, to be said by the check
                    reply = {"error": [type(error).__name__, str(error)]}
                _send(stream, reply)


@contextlib.contextmanager
def messages(connection: socket.socket) -> Iterator[IO[bytes]]:
    """Read and write messages on a connection, which the other side may end at any moment."""
    opened = connection.makefile("rwb")
    try:
        yield opened
    finally:
        with contextlib.suppress(OSError):
            opened.close()


def _called(asked: Mapping[str, Any], functions: Mapping[str, Any]) -> dict[str, Any]:
    torch = sys.modules.get("torch")
    given, names = unpack(asked["given"]), asked["names"]
    if asked["name"] not in functions:
        raise NameError(f"name {asked['name']!r} is not defined")
    plain = given[: len(given) - len(names)]
    named = dict(zip(names, given[len(plain) :], strict=True))
    with torch.set_grad_enabled(asked["gradient"]) if torch else contextlib.nullcontext():
        value = pack(functions[asked["name"]](*plain, **named))
    pairs = zip(asked["given"], map(pack, given), strict=True)
    # As texts: NaN is not equal to itself.
    changed = {n: given[n] for n, pair in enumerate(pairs) if len(set(map(json.dumps, pair))) == 2}
    return {"value": value, "changed": pack(changed)}


def _send(stream: IO[bytes], message: Any) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """The next message; None where there is none, or no whole one of a size that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return json.loads(stream.readline(_LARGEST))
    return None


# ---- the format ------------------------------------------------------------------------------------------------------


def pack(value: Any) -> Any:
    """Turn a value into what JSON can hold: numbers, texts, lists, dicts, arrays, tensors, and tables of pandas.

    Of anything else the name of its type and how it is shown are kept.

    Example:
        >>> pack([1, (None, "a")]), pack({2: 0.5}), pack(object)
        ([1, {'tuple': [None, 'a']}], {'dict': [[2, 0.5]]}, {'other': ['type', "<class 'object'>"]})
    """
    if type(value) in (type(None), bool, int, float, str):
        return value
    if isinstance(value, list | range | Iterator | KeysView | ValuesView | ItemsView):
        return [*map(pack, value)]
    for kind, name in ((tuple, "tuple"), (set | frozenset, "set")):
        if isinstance(value, kind):
            return {name: [*map(pack, value)]}
    if isinstance(value, Mapping):
        return {"dict": [[pack(key), pack(one)] for key, one in value.items()]}
    if _is_a(value, "torch", "Tensor"):
        from safetensors.torch import save

        return {"tensor": _text(save({"": value.detach().cpu().contiguous()}))}
    if _is_a(value, "pandas", "DataFrame"):
        return {
            "table": [
                pack([*value]),
                pack(value.index.tolist()),
                [pack(value[name].tolist()) for name in value],
            ]
        }
    if hasattr(value, "__array__") and not isinstance(value, type):
        import numpy as np

        array, number = np.asarray(value), isinstance(value, np.generic)
        if array.dtype.kind in "biufcSU":
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=False)
            return {"number" if number else "array": _text(stream.getvalue())}
    return {"other": [type(value).__name__, repr(value)[:_SHOWN]]}


def unpack(packed: Any) -> Any:
    """Turn what `pack` made into the value again.

    Raises:
        ValueError: it is nothing that `pack` makes; what others have made may raise other exceptions, too.

    Example:
        >>> unpack(pack({"a": [1, (2.5, None)]}))
        {'a': [1, (2.5, None)]}
    """
    if isinstance(packed, list):
        return [*map(unpack, packed)]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind in ("tuple", "set"):
        return {"tuple": tuple, "set": set}[kind](map(unpack, content))
    if kind == "dict":
        return {unpack(key): unpack(one) for key, one in content}
    if kind == "tensor":
        from safetensors.torch import load

        return load(base64.b64decode(content))[""]
    if kind == "table":
        import pandas as pd

        names, index, columns = map(unpack, content)
        return pd.DataFrame(dict(zip(names, columns, strict=True)), index=index)
    if kind in ("array", "number"):
        import numpy as np

        stream = io.BytesIO(base64.b64decode(content))
        array = np.lib.format.read_array(stream, allow_pickle=False)  # np.load reads archives, too
        return array if kind == "array" else array[()]
    if kind == "other":
        name, shown = map(str, content)
        return type(name, (), {"__repr__": lambda _: shown})()
    raise ValueError(f"{kind!r:.40} is no kind of value")


def _is_a(value: Any, package: str, name: str) -> bool:
    """Whether a value is of a class of a package, which is not imported for that."""
    module = sys.modules.get(package)
    return module is not None and isinstance(value, getattr(module, name))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _error(name: str, text: str) -> Exception:
    """An exception of that name; of Python's own class, where there is one."""
    kind = getattr(builtins, name, None)
    fits = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _ENDS)
    base = kind if fits else Exception
    return type(name, (base,), {"__init__": lambda self: None, "__str__": lambda self: str(text)})()


def _write_over(place: Any, value: Any) -> None:
    """Give an argument the content that the function has left in its own copy; a table stays as it is."""
    if isinstance(place, list):
        place[:] = value
    elif isinstance(place, dict):
        place.clear()
        place.update(value)
    elif hasattr(place, "copy_"):
        place.detach().copy_(value)
    elif hasattr(place, "dtype"):
        place[...] = value
