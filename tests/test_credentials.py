"""A cluster of our own takes code from nobody else; somebody's cluster is told from a mistake in seconds."""

import os
import re
import socket
import time

import distributed
import pytest
from distributed.security import Security

from course_lib import credentials, jobs
from course_lib.credentials import ClusterError, TlsFiles
from tests.book.clusters import cluster_in_place
from tests.certificates import DAY, Authority

pytestmark = pytest.mark.bad_input

PATIENCE = 60  # seconds; what is refused is refused at once, and a loaded machine is slow


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def files(ours):
    return TlsFiles(ours.ca_file, *ours.sign("teacher"))


@pytest.fixture(scope="module")
def cluster(ours):
    """Somebody's cluster with TLS, inside of this process."""
    with cluster_in_place(security=ours.cluster()) as running:
        yield running.scheduler_address


@pytest.fixture(scope="module")
def in_place():
    """Somebody's cluster without."""
    with cluster_in_place() as running:
        yield running.scheduler_address


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch):
    for name in credentials._CONFIGURATION.values():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def configured():
    """Set Dask's own configuration, as its environment variables do at its import."""
    import dask

    def to(files):
        return dask.config.set(
            {
                "distributed.comm.tls.ca-file": str(files.ca_file),
                "distributed.comm.tls.client.cert": str(files.cert),
                "distributed.comm.tls.client.key": str(files.key),
            }
        )

    return to


def refused(address, files, timeout=float(PATIENCE)):
    """The message with which a cluster is refused, in time."""
    begun = time.monotonic()
    with (
        pytest.raises(ClusterError) as caught,
        jobs.connected(pow, "sums", scheduler=address, timeout=timeout, tls=files),
    ):
        pass
    assert time.monotonic() - begun < PATIENCE / 2
    return str(caught.value)


# ---- a cluster of our own --------------------------------------------------------------------------------------------


def intruders(address):
    """How somebody on the same machine may try it: (address, credentials)."""
    yield address, Security()
    yield address.replace("tls://", "tcp://"), Security()
    yield address, Security.temporary()


def test_nobody_without_its_credentials_reaches_a_cluster_of_our_own_and_its_workers_compute():
    with jobs.connected(pow, "sums", scheduler=None, workers=1) as cluster:
        ((worker, told),) = cluster.client.scheduler_info()["workers"].items()
        for address in (cluster.address, worker, told["nanny"]):
            assert address.startswith("tls://127.0.0.1:")
            for tried, security in intruders(address):
                with pytest.raises((OSError, TypeError, ClusterError)):
                    jobs._ask(tried, 10.0, security)
        with pytest.raises((OSError, TypeError)):
            distributed.Client(cluster.address, timeout=5, security=Security.temporary())
        assert jobs._ask(cluster.address, 10.0, cluster.security)["n_workers"] == 1
        assert dict(cluster({"a": (2, 3), "b": (3, 2)})) == {"a": 8, "b": 9}


def test_its_credentials_are_in_no_file_variable_or_output(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with jobs.connected(pow, "sums", scheduler=None, workers=1) as cluster:
        assert dict(cluster({"a": (2, 3)})) == {"a": 8}
        key = cluster.security.tls_worker_key
        (worker,) = cluster.client.run(os.getpid).values()
        for process in ("self", worker):
            for what in ("environ", "cmdline"):
                with open(f"/proc/{process}/{what}", "rb") as stream:
                    assert b"PRIVATE KEY" not in stream.read()
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not any(b"PRIVATE KEY" in path.read_bytes() for path in left)
        assert "PRIVATE KEY" in key
        assert "PRIVATE" not in repr(cluster) + repr(cluster.security)
    out, err = capfd.readouterr()
    assert "PRIVATE" not in out + err


def test_without_cryptography_there_is_no_cluster_of_our_own(monkeypatch):
    def missing():
        raise ImportError("cryptography")

    monkeypatch.setattr(Security, "temporary", missing)
    with (
        pytest.raises(ClusterError, match=re.escape("pip install 'small-and-fast[cluster]'")),
        jobs.connected(pow, "sums", scheduler=None),
    ):
        pass


# ---- somebody's cluster ----------------------------------------------------------------------------------------------


def test_a_cluster_with_tls_takes_the_files_it_was_made_for(cluster, files, caplog):
    with jobs.connected(pow, "sums", scheduler=cluster, tls=files) as found:
        assert dict(found({"a": (2, 3)})) == {"a": 8}
        assert jobs._ask(found.address, found.timeout, found.security)["n_workers"] == 1
    assert caplog.records == []


def test_what_is_not_given_is_taken_from_the_configuration_of_dask(cluster, files, ours, configured):
    with configured(files), jobs.connected(pow, "sums", scheduler=cluster) as found:
        assert dict(found({"a": (2, 3)})) == {"a": 8}
    with configured(files._replace(ca_file="/nowhere")):
        assert "--tls-ca-file: cannot read /nowhere" in refused(cluster, None)
        with jobs.connected(pow, "sums", scheduler=cluster, tls=TlsFiles(ours.ca_file)) as found:
            assert dict(found({"a": (2, 3)})) == {"a": 8}


def test_a_key_may_stand_in_the_file_of_its_certificate(cluster, files, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    with jobs.connected(pow, "sums", scheduler=cluster, tls=TlsFiles(files.ca_file, both)) as found:
        assert dict(found({"a": (2, 3)})) == {"a": 8}


@pytest.mark.parametrize("missing", ["all", "ca_file", "cert"])
def test_an_address_with_tls_asks_for_credentials(files, missing):
    given = TlsFiles() if missing == "all" else files._replace(**{missing: None})
    said = refused("tls://127.0.0.1:9", given)
    assert "tls://127.0.0.1:9 asks for credentials. Give --tls-ca-file, --tls-cert, --tls-key" in said
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in said


OPTIONS = dict(zip(TlsFiles._fields, credentials._CONFIGURATION, strict=True))


@pytest.mark.parametrize("field", OPTIONS)
def test_a_file_that_is_missing_is_named_with_its_option(files, field, tmp_path):
    said = refused("tls://127.0.0.1:9", files._replace(**{field: tmp_path / "none.pem"}))
    assert said == f"{OPTIONS[field]}: cannot read {tmp_path / 'none.pem'} (No such file or directory)"


@pytest.mark.parametrize("field", OPTIONS)
@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_what_is_not_a_file_is_refused_and_nothing_hangs(files, field, kind, tmp_path):
    path = tmp_path / "odd"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    assert refused("tls://127.0.0.1:9", files._replace(**{field: path})) == (
        f"{OPTIONS[field]}: {path} is not a file"
    )


@pytest.mark.parametrize("field", OPTIONS)
def test_a_file_that_may_not_be_read_is_named_with_its_option(files, field, monkeypatch):
    import builtins

    path, real = getattr(files, field), builtins.open

    def denied(name, *rest, **options):
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "open", denied)  # root may read everything
    assert refused("tls://127.0.0.1:9", files) == f"{OPTIONS[field]}: cannot read {path} (Permission denied)"


@pytest.mark.parametrize("content", [b"", b"no PEM\n", b"\x30\x82\x01\x0a\xff", b"key", b"cut"])
@pytest.mark.parametrize("field", OPTIONS)
def test_a_file_that_is_no_pem_is_named_with_its_option(files, field, content, tmp_path):
    path = tmp_path / "odd.pem"
    if content == b"key":  # the other kind
        content = (files.cert if field == "key" else files.key).read_bytes()
    elif content == b"cut":
        content = getattr(files, field).read_bytes()[:90]
    path.write_bytes(content)
    what = "private key" if field == "key" else "certificate"
    said = refused("tls://127.0.0.1:9", files._replace(**{field: path}))
    assert said == f"{OPTIONS[field]}: {path} holds no {what} in PEM form"


def test_a_key_that_is_forgotten_of_another_certificate_or_locked_is_told(ours, files):
    _, other = ours.sign("other")
    said = refused("tls://127.0.0.1:9", files._replace(key=other))
    assert said == f"--tls-key: the key in {other} is not that of the certificate in {files.cert}"
    said = refused("tls://127.0.0.1:9", files._replace(key=None))
    assert said == (
        f"--tls-cert: {files.cert} holds no private key in PEM form. Give the file that does with --tls-key"
    )
    cert, key = ours.sign("locked", password=b"secret")
    assert f"the key in {key} has a password" in refused(
        "tls://127.0.0.1:9", files._replace(cert=cert, key=key)
    )


def test_credentials_that_do_not_match_end_in_seconds(cluster, files, ours, tmp_path):
    theirs = Authority(tmp_path, "theirs")
    strangers = TlsFiles(theirs.ca_file, *theirs.sign("teacher"))
    expired = TlsFiles(ours.ca_file, *ours.sign("expired", valid=-DAY))
    for wrong in (
        strangers,
        files._replace(ca_file=theirs.ca_file),
        strangers._replace(ca_file=ours.ca_file),
        expired,
    ):
        said = refused(cluster, wrong)
        assert f"the Dask scheduler at {cluster} and these credentials do not match (" in said
        assert "before comm was established" not in said


def test_a_scheduler_with_tls_and_an_address_without_or_the_reverse_are_told(cluster, files, in_place):
    said = refused(cluster.replace("tls://", "tcp://"), None)
    assert "no Dask scheduler answers at tcp://" in said
    assert "tls://10.0.0.1:8786 where it asks for credentials" in said
    said = refused(in_place.replace("tcp://", "tls://"), files)
    assert "no Dask scheduler answers at tls://" in said


def test_with_tls_too_who_does_not_answer_is_told_in_time(files):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"tls://127.0.0.1:{listening.getsockname()[1]}"
        assert "(nothing answered within 1 s)" in refused(address, files, timeout=1.0)  # nobody listens
        listening.listen()
        assert "(nothing answered within 1 s)" in refused(address, files, timeout=1.0)  # nobody speaks


def test_an_address_without_tls_is_used_and_its_danger_told(in_place, files, caplog):
    with jobs.connected(pow, "sums", scheduler=in_place) as found:
        assert dict(found({"a": (2, 3)})) == {"a": 8}
    (said,) = caplog.messages
    assert said.startswith(f"the cluster at {in_place} has no TLS: whoever reaches it can run code there")
    assert "are for an address tls://...; " in refused(in_place, files)


@pytest.mark.parametrize(
    ("address", "exposed"),
    [("tls://a:1", False), ("wss://a:1", False), ("tcp://a:1", True), ("a:1", True), ("ws://a:1", True)],
)
def test_addresses_without_encryption_are_told_from_others(address, exposed):
    assert bool(credentials.exposure(address)) == exposed
