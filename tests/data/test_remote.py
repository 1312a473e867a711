import errno
import gzip
import hashlib
import http.client
import io
import os
import pickle
import socket
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets
from torchvision.datasets import utils

from course_lib.data import DatasetError, fetch, load_dataset, remote

COURSE_DATA = os.environ.get("COURSE_DATA")  # read here: the tests themselves run without it
TRAIN, TEST = 60, 20


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@dataclass
class Small:
    """A small set in the place of a real one."""

    name: str
    title: str
    archives: dict[str, bytes]  # path under the root: content
    unpacked: dict[str, bytes]
    online: dict[str, bytes]  # URL: content
    train: np.ndarray  # [N, C, H, W]
    train_labels: np.ndarray
    test: np.ndarray

    def place(self, root, files):
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)


def made_up(shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (TRAIN + TEST, *shape), dtype=np.uint8)
    return images[:TRAIN], images[TRAIN:], rng.integers(0, 10, TRAIN + TEST, dtype=np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def small_mnist(monkeypatch, name, title, reader):
    train, test, labels = made_up((28, 28))
    contents = {
        "train-images-idx3-ubyte": idx(train),
        "train-labels-idx1-ubyte": idx(labels[:TRAIN]),
        "t10k-images-idx3-ubyte": idx(test),
        "t10k-labels-idx1-ubyte": idx(labels[TRAIN:]),
    }
    folder = f"{reader.__name__}/raw"
    packed = {f"{file}.gz": gzip.compress(content, mtime=0) for file, content in contents.items()}
    monkeypatch.setattr(reader, "resources", [(file, md5(content)) for file, content in packed.items()])
    for file in (
        contents
    ):  # as for the real sets: all digests are known of MNIST, those of the labels of Fashion-MNIST
        if f"{folder}/{file}" in remote._UNPACKED_MD5:
            monkeypatch.setitem(remote._UNPACKED_MD5, f"{folder}/{file}", md5(contents[file]))
    return Small(
        name,
        title,
        archives={f"{folder}/{file}": content for file, content in packed.items()},
        unpacked={f"{folder}/{file}": content for file, content in contents.items()},
        online={reader.mirrors[0] + file: content for file, content in packed.items()},
        train=train[:, None],
        train_labels=labels[:TRAIN],
        test=test[:, None],
    )


def small_cifar(monkeypatch):
    reader = datasets.CIFAR10
    train, test, labels = made_up((3, 32, 32))
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    contents = {"batches.meta": pickle.dumps({"label_names": classes})}
    for number in range(5):
        part = slice(number * 12, number * 12 + 12)
        batch = {"data": train[part].reshape(12, -1), "labels": labels[part].tolist()}
        contents[f"data_batch_{number + 1}"] = pickle.dumps(batch)
    contents["test_batch"] = pickle.dumps({"data": test.reshape(TEST, -1), "labels": labels[TRAIN:].tolist()})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file, content in contents.items():
            member = tarfile.TarInfo(f"{reader.base_folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    packed = buffer.getvalue()
    monkeypatch.setattr(reader, "tgz_md5", md5(packed))
    monkeypatch.setattr(
        reader, "train_list", [[f"data_batch_{n}", md5(contents[f"data_batch_{n}"])] for n in range(1, 6)]
    )
    monkeypatch.setattr(reader, "test_list", [["test_batch", md5(contents["test_batch"])]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5(contents["batches.meta"])})
    return Small(
        "cifar10",
        "CIFAR-10",
        archives={reader.filename: packed},
        unpacked={f"{reader.base_folder}/{file}": content for file, content in contents.items()},
        online={reader.url: packed},
        train=train,
        train_labels=labels[:TRAIN],
        test=test,
    )


@pytest.fixture(params=["mnist", "fashion_mnist", "cifar10"])
def small(request, monkeypatch):
    if request.param == "mnist":
        return small_mnist(monkeypatch, "mnist", "MNIST", datasets.MNIST)
    if request.param == "fashion_mnist":
        return small_mnist(monkeypatch, "fashion_mnist", "Fashion-MNIST", datasets.FashionMNIST)
    return small_cifar(monkeypatch)


class Response(io.BytesIO):
    """What urlopen returns."""

    def __init__(self, url, content):
        super().__init__(content)
        self.url, self.length = url, len(content)


def serve(monkeypatch, online):
    """Let the network hold these files and no others; a callable is called for its content. Returns the visits."""
    visits = []

    def urlopen(request, *_, **__):
        url = request.full_url
        if url not in online:
            raise urllib.error.URLError(f"no route to {url}")
        if request.get_header("Method") == "HEAD":  # torchvision looks for a redirection first
            return Response(url, b"")
        visits.append(url)
        return Response(url, online[url]() if callable(online[url]) else online[url])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return visits


def everything_under(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*")) if root.exists() else []


def check(dataset, small):
    """The data set holds the made-up images, each once, each with its label."""
    assert dataset.name == small.title
    assert len(dataset.classes) == 10
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (54, 6, 20)
    assert torch.equal(dataset.test.images, torch.from_numpy(small.test))
    expected = {
        image.tobytes(): int(label) for image, label in zip(small.train, small.train_labels, strict=True)
    }
    found = {}
    assert all(split.images.is_contiguous() for split in (dataset.train, dataset.validation, dataset.test))
    for split in (dataset.train, dataset.validation):
        for image, label in zip(split.images.numpy(), split.labels.tolist(), strict=True):
            assert image.tobytes() not in found
            found[image.tobytes()] = label
    assert found == expected


def test_files_in_place_are_used_without_the_network(small, tmp_path):
    small.place(tmp_path, small.unpacked)
    check(load_dataset(small.name, root=tmp_path), small)
    check(load_dataset(small.name, root=tmp_path, download=False), small)
    assert fetch(small.name, tmp_path) == (tmp_path / next(iter(small.unpacked))).parent


def test_archives_placed_by_hand_are_unpacked_without_the_network(small, tmp_path):
    small.place(tmp_path, small.archives)
    check(load_dataset(small.name, root=tmp_path, download=False), small)
    folders = {str(parent) for path in small.unpacked for parent in Path(path).parents if str(parent) != "."}
    assert set(everything_under(tmp_path)) == {*small.archives, *small.unpacked, *folders}


def test_the_place_is_the_environment_variable_unless_told(small, tmp_path, monkeypatch):
    small.place(tmp_path, small.unpacked)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    check(load_dataset(small.name), small)


def test_the_validation_split_is_the_same_in_every_load(small, tmp_path):
    for place in ("one", "two"):
        small.place(tmp_path / place, small.unpacked)
    one, two = (load_dataset(small.name, root=tmp_path / place) for place in ("one", "two"))
    assert torch.equal(one.validation.images, two.validation.images)
    assert torch.equal(one.validation.labels, two.validation.labels)


def test_a_download_leaves_the_unpacked_files_and_nothing_else(small, tmp_path, monkeypatch):
    visits = serve(monkeypatch, small.online)
    check(load_dataset(small.name, root=tmp_path / "new"), small)
    assert visits == list(small.online)
    found = [path for path in everything_under(tmp_path / "new") if (tmp_path / "new" / path).is_file()]
    assert found == sorted(small.unpacked)
    check(load_dataset(small.name, root=tmp_path / "new"), small)
    assert len(visits) == len(small.online)  # and the second time there is nothing to download


def test_without_a_terminal_a_download_is_a_line_for_each_archive(small, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    serve(monkeypatch, small.online)
    fetch(small.name, tmp_path)
    written = capfd.readouterr().err
    assert "\r" not in written
    told = [line.partition(" (")[0] for line in written.splitlines()]
    count = len(small.online)
    assert told == [f"archives of {small.title}: {number + 1} of {count}" for number in range(count)]


def test_only_what_lacks_is_downloaded(small, tmp_path, monkeypatch):
    small.place(tmp_path, small.unpacked)
    lacking, kept = list(small.unpacked)[-1], next(iter(small.unpacked))
    (tmp_path / lacking).unlink()
    os.utime(tmp_path / kept, ns=(1, 1))
    visits = serve(monkeypatch, small.online)
    check(load_dataset(small.name, root=tmp_path), small)
    assert visits == list(small.online)[-1:]
    assert (tmp_path / kept).stat().st_mtime_ns == 1


@pytest.mark.bad_input
def test_absent_files_are_named_with_every_way_to_get_them(small, tmp_path):
    with pytest.raises(DatasetError) as caught:
        load_dataset(small.name, root=tmp_path, download=False)
    message = str(caught.value)
    assert message.startswith(f"{small.title} is not whole under {tmp_path}: ")
    assert f"`COURSE_DATA={tmp_path} course data fetch {small.name}`" in message
    for path in small.unpacked:
        assert path in message
    for path, url in zip(small.archives, small.online, strict=True):
        assert f"{tmp_path / path} from {url}" in message
    assert everything_under(tmp_path) == []


@pytest.mark.bad_input
def test_the_command_is_plain_where_the_place_is_the_usual_one(small, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match=f"Run `course data fetch {small.name}`"):
        load_dataset(small.name, download=False)


@pytest.mark.bad_input
@pytest.mark.parametrize("use", [load_dataset, fetch])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_truncated_file_is_named(small, tmp_path, use, number):
    small.place(tmp_path, small.unpacked)
    path = tmp_path / list(small.unpacked)[number]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=rf"{path.name} is truncated.*Delete it\. Run `"):
        use(small.name, root=tmp_path)


@pytest.mark.bad_input
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_corrupted_file_is_named(small, tmp_path, number):
    small.place(tmp_path, small.unpacked)
    path = tmp_path / list(small.unpacked)[number]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if small.name == "fashion_mnist" and "images" in path.name:
        content += b"\0"  # no digest of these files is known, so that a changed size is what shows
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{path.name} is (truncated or )?corrupted"):
        load_dataset(small.name, root=tmp_path)


@pytest.mark.bad_input
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08 still packed, and long", b"\0\0\x08\x03\0\0"])
def test_a_file_that_is_no_idx_file_is_named(tmp_path, monkeypatch, content):
    small = small_mnist(monkeypatch, "fashion_mnist", "Fashion-MNIST", datasets.FashionMNIST)
    small.place(tmp_path, small.unpacked)
    (tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"train-images-idx3-ubyte .*its first bytes are not the header of an IDX file"
    ):
        load_dataset("fashion_mnist", root=tmp_path)


@pytest.mark.bad_input
@pytest.mark.parametrize("labels", [np.zeros(TRAIN - 1, np.uint8), np.full(TRAIN, 10, np.uint8)])
def test_labels_that_do_not_fit_the_images_are_refused(tmp_path, monkeypatch, labels):
    small = small_mnist(monkeypatch, "mnist", "MNIST", datasets.MNIST)
    path = "MNIST/raw/train-labels-idx1-ubyte"
    monkeypatch.setitem(remote._UNPACKED_MD5, path, md5(idx(labels)))
    small.place(tmp_path, small.unpacked | {path: idx(labels)})
    with pytest.raises(
        DatasetError, match=r"training files of MNIST hold 60 images and \d+ labels that do not fit together"
    ):
        load_dataset("mnist", root=tmp_path)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "damage", [lambda packed: packed[: len(packed) // 2], lambda packed: b"<html>not found</html>"]
)
def test_a_damaged_archive_is_named_and_nothing_is_unpacked(small, tmp_path, damage):
    broken = list(small.archives)[-1]
    small.place(tmp_path, small.archives | {broken: damage(small.archives[broken])})
    before = everything_under(tmp_path)
    with pytest.raises(
        DatasetError, match=rf"{Path(broken).name} is truncated or corrupted: .*Delete it\. Run `"
    ):
        load_dataset(small.name, root=tmp_path, download=False)
    assert everything_under(tmp_path) == before


@pytest.mark.bad_input
def test_an_archive_of_something_else_is_named(small, tmp_path):
    other = {
        path: gzip.compress(b"else") if path.endswith("ubyte.gz") else empty_tar() for path in small.archives
    }
    small.place(tmp_path, other)
    before = everything_under(tmp_path)
    with pytest.raises(DatasetError, match=rf"{Path(next(iter(other))).name} (holds|does not hold) "):
        load_dataset(small.name, root=tmp_path, download=False)
    assert everything_under(tmp_path) == before


def empty_tar():
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w:gz").close()
    return buffer.getvalue()


def raising(error):
    def answer():
        raise error

    return answer


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "last",
    [
        None,
        raising(ConnectionResetError("connection reset by peer")),
        raising(TimeoutError("timed out")),
        raising(http.client.IncompleteRead(b"")),
        "half",
        "something else",
    ],
    ids=["unreachable", "reset", "timeout", "incomplete", "half", "something else"],
)
def test_a_failed_download_leaves_nothing_and_says_how_to_place_the_files(small, tmp_path, monkeypatch, last):
    online = dict(small.online)
    url, packed = online.popitem()  # the others arrive whole
    if last is not None:
        online[url] = {"half": packed[: len(packed) // 2], "something else": b"<html>"}.get(last, last)
    serve(monkeypatch, online)
    with pytest.raises(DatasetError, match=f"{small.title} could not be downloaded") as caught:
        fetch(small.name, tmp_path)
    assert everything_under(tmp_path) == []
    assert url in str(caught.value)
    assert f"{tmp_path / next(iter(small.archives))} from " in str(caught.value)


def test_a_second_mirror_is_asked_where_the_first_fails(tmp_path, monkeypatch):
    small = small_mnist(monkeypatch, "mnist", "MNIST", datasets.MNIST)
    first, second = datasets.MNIST.mirrors
    serve(monkeypatch, {url.replace(first, second): content for url, content in small.online.items()})
    check(load_dataset("mnist", root=tmp_path), small)


def test_an_interrupted_download_leaves_nothing(small, tmp_path, monkeypatch):
    online = dict(small.online)
    online[list(online)[-1]] = raising(KeyboardInterrupt())
    serve(monkeypatch, online)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(small.name, root=tmp_path)
    assert everything_under(tmp_path) == []


@pytest.mark.bad_input
def test_a_damaged_file_is_named_before_anything_is_downloaded(small, tmp_path, monkeypatch):
    small.place(tmp_path, small.unpacked)
    first, *_, last = small.unpacked
    (tmp_path / first).write_bytes(b"\0")
    (tmp_path / last).unlink()
    visits = serve(monkeypatch, small.online)
    with pytest.raises(DatasetError, match=f"{Path(first).name} is truncated"):
        load_dataset(small.name, root=tmp_path)
    assert visits == []


@pytest.mark.bad_input
def test_a_root_that_cannot_be_written_to_is_named(small, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    serve(monkeypatch, small.online)
    with pytest.raises(
        OSError, match=r"cannot write into .*file \(.+\)\. .*set COURSE_DATA to another folder"
    ):
        load_dataset(small.name, root=tmp_path / "file")


@pytest.mark.bad_input
def test_a_full_disk_is_named_and_nothing_is_left(small, tmp_path, monkeypatch):
    def full(source, target):
        (target / "half").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(utils, "extract_archive", full)
    serve(monkeypatch, small.online)
    with pytest.raises(OSError, match=r"cannot write into .* \(No space left on device\)\. Free space"):
        load_dataset(small.name, root=tmp_path)
    assert everything_under(tmp_path) == []


def test_a_download_does_not_wait_forever_and_gives_the_patience_back(tmp_path, monkeypatch):
    small = small_cifar(monkeypatch)
    seen = []
    packed = next(iter(small.online.values()))
    serve(
        monkeypatch, {url: lambda: seen.append(socket.getdefaulttimeout()) or packed for url in small.online}
    )
    load_dataset("cifar10", root=tmp_path)
    assert seen == [remote._PATIENCE]
    assert socket.getdefaulttimeout() is None


@pytest.mark.skipif(
    not (Path(COURSE_DATA or "nowhere") / "MNIST/raw").is_dir(), reason="$COURSE_DATA holds no MNIST"
)
def test_the_real_mnist_is_whole():
    dataset = load_dataset("mnist", root=COURSE_DATA, download=False)
    assert dataset.train.images.shape == (55_000, 1, 28, 28)
    assert (len(dataset.validation), len(dataset.test)) == (5_000, 10_000)
    assert dataset.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
