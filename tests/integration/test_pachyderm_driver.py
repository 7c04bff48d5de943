"""The Pachyderm driver on a server: commits in every state, tokens, TLS, odd paths, many files, big files, silence."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from datamount.credentials import Credential
from datamount.drivers import Item
from datamount.drivers.pachyderm import PachydermDriver
from datamount.errors import DatamountError, NotFound, Refused, Unavailable, UsageError, VerificationFailed
from datamount.manifest import Dataset, Pachyderm
from tests import servers

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def driver(repo: str, credential: Credential | None = None, **source: Any) -> Iterator[PachydermDriver]:
    made = Pachyderm(repo=repo, **source)
    with closing(PachydermDriver("images", Dataset(pachyderm=made), made, credential)) as opened:
        yield opened


def plan(reader: PachydermDriver) -> list[Item]:
    return list(reader.plan(reader.resolve()))


def content(reader: PachydermDriver, item: Item, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(reader.open(item, start, stop))


def new_repo(server: servers.PachydermServer, files: dict[str, bytes] | None = None) -> str:
    repo = f"repo-{secrets.token_hex(4)}"
    server.put(repo, files if files is not None else {"/a.txt": b"one"})
    return repo


def failure(reader: PachydermDriver) -> DatamountError:
    with pytest.raises(DatamountError) as caught:
        for item in plan(reader):
            content(reader, item)
    return caught.value


# --- commits ----------------------------------------------------------------------------------------------------


def test_a_branch_resolves_to_its_head(pachyderm: servers.PachydermServer) -> None:
    """The pin is the ID of the branch's newest commit; "master" where no branch is named."""
    repo = new_repo(pachyderm)
    newest = pachyderm.put(repo, {"/a.txt": b"two"})
    other = pachyderm.put(repo, {"/a.txt": b"three"}, branch="other")
    with driver(repo, address=pachyderm.address) as reader:
        assert {"commit": newest} == reader.resolve()
    with driver(repo, address=pachyderm.address, branch="other") as reader:
        assert {"commit": other} == reader.resolve()


def test_a_commit_of_the_manifest_pins(pachyderm: servers.PachydermServer) -> None:
    """`commit:` delivers that commit, whatever the branch points to now."""
    repo = new_repo(pachyderm, {})
    old = pachyderm.put(repo, {"/a.txt": b"old"})
    pachyderm.put(repo, {"/a.txt": b"new"})
    with driver(repo, address=pachyderm.address, branch="master", commit=old) as reader:
        assert {"commit": old} == reader.resolve()
        assert [content(reader, item) for item in plan(reader)] == [b"old"]


def test_an_open_commit_is_not_delivered(pachyderm: servers.PachydermServer) -> None:
    """The head of a branch that is still being written is an error that says how to finish it, and what to pin."""
    repo = new_repo(pachyderm)
    finished = pachyderm.client().inspect_commit((repo, "master"))
    parent = next(iter(finished)).commit.id
    commit = pachyderm.client().start_commit(repo, "master", project_name="default")
    with driver(repo, address=pachyderm.address) as reader:
        error = failure(reader)
    pachyderm.client().finish_commit(commit)
    assert type(error) is Unavailable
    assert not error.transient
    assert "still open" in error.message
    assert f"pachctl finish commit default/{repo}@master" in error.hint
    assert f"commit: {parent}" in error.hint
    with driver(repo, address=pachyderm.address) as reader:
        assert {"commit": commit.id} == reader.resolve()


def test_a_commit_that_is_being_finished_is_waited_for() -> None:
    """Between "finishing" and "finished" pachd only works on; the driver waits instead of failing."""
    with servers.PachydermServer(finish_seconds=1.0) as server:
        repo = new_repo(server)
        with driver(repo, address=server.address) as reader:
            assert [item.path for item in plan(reader)] == ["a.txt"]


def test_a_commit_that_failed_is_an_error(pachyderm: servers.PachydermServer) -> None:
    """A commit that finished with an error says so, and what the error was."""
    repo = new_repo(pachyderm)
    commit = pachyderm.client().start_commit(repo, "master", project_name="default")
    pachyderm.client().finish_commit(commit, error="out of beans")
    with driver(repo, address=pachyderm.address) as reader:
        error = failure(reader)
    assert type(error) is Unavailable
    assert not error.transient
    assert "out of beans" in error.message


def test_an_empty_commit_has_no_files(pachyderm: servers.PachydermServer) -> None:
    """The root of a commit without files is an empty dataset; a path in it is not found."""
    repo = new_repo(pachyderm, {})
    with driver(repo, address=pachyderm.address) as reader:
        assert plan(reader) == []
    with driver(repo, address=pachyderm.address, path="/png") as reader:
        assert type(failure(reader)) is NotFound


def test_a_deleted_branch(pachyderm: servers.PachydermServer) -> None:
    """Without its branch a dataset is not found, but what the lock pinned is delivered."""
    repo = new_repo(pachyderm)
    with driver(repo, address=pachyderm.address) as reader:
        pin = reader.resolve()
    pachyderm.client().delete_branch(repo, "master", project_name="default")
    with driver(repo, address=pachyderm.address) as reader:
        assert type(failure(reader)) is NotFound
        assert pin == reader.resolve(pin)
        assert [content(reader, item) for item in reader.plan(pin)] == [b"one"]


# --- paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/png", "png", "/png/", "//png//"])
def test_forms_of_a_folder(pachyderm: servers.PachydermServer, path: str) -> None:
    """Slashes around a folder do not matter, and a folder with a longer name is not part of it."""
    repo = new_repo(pachyderm, {"/png/a": b"1", "/png/b/c": b"2", "/png2/d": b"3", "/e": b"4"})
    with driver(repo, address=pachyderm.address, path=path) as reader:
        assert {item.path: content(reader, item) for item in plan(reader)} == {"a": b"1", "b/c": b"2"}


@pytest.mark.parametrize(("path", "delivered"), [("/png/b/c", "c"), ("/e", "e")])
def test_one_file(pachyderm: servers.PachydermServer, path: str, delivered: str) -> None:
    """A path of a file delivers that file under its own name."""
    repo = new_repo(pachyderm, {"/png/b/c": b"2", "/png/b/cc": b"no", "/e": b"4"})
    with driver(repo, address=pachyderm.address, path=path) as reader:
        (item,) = plan(reader)
        assert delivered == item.path
        assert [item] == [found for found, chunks in reader.open_many([item]) if b"".join(chunks)]


# --- bytes ------------------------------------------------------------------------------------------------------


def test_small_files_are_verified() -> None:
    """A file under 1 MB whose bytes changed at the server, size kept, is VerificationFailed either way."""
    with servers.PachydermServer() as server:
        repo = new_repo(server, {"/a.txt": b"right", "/b.txt": b"b"})
        (blob,) = [file for file in (server.folder / "pfs" / "blobs").iterdir() if file.read_bytes() == b"right"]
        blob.write_bytes(b"wrong")
        with driver(repo, address=server.address) as reader:
            wrong, right = plan(reader)
            assert content(reader, right) == b"b"
            with pytest.raises(VerificationFailed):
                content(reader, wrong)
            with pytest.raises(VerificationFailed):
                for _, chunks in reader.open_many([wrong]):
                    b"".join(chunks)
            assert content(reader, wrong, 1, 4) == b"ron"  # a part cannot be checked


@pytest.mark.parametrize("size", [0, 1, 999_999, 1_000_000, 3_000_000])
def test_sizes_about_one_chunk(pachyderm: servers.PachydermServer, size: int) -> None:
    """Files on both sides of pachd's chunk size are delivered, and the small ones pass the check of their hash."""
    data = os.urandom(size)
    repo = new_repo(pachyderm, {"/x.bin": data})
    with driver(repo, address=pachyderm.address) as reader:
        (item,) = plan(reader)
        assert data == content(reader, item)
        assert [data] == [b"".join(chunks) for _, chunks in reader.open_many([item])]


def test_many_at_once(pachyderm: servers.PachydermServer) -> None:
    """open_many brings exactly the items asked for, whatever lies between them, and may be left early."""
    files = {f"/d/{name}": name.encode() * 3 for name in ("a/1", "a/2", "b", "b-", "c\\d", "e f", "g/h/i", "z")}
    repo = new_repo(pachyderm, files | {"/other": b"x"})
    with driver(repo, address=pachyderm.address, path="/d") as reader:
        items = plan(reader)
        everything = {item.path: b"".join(chunks) for item, chunks in reader.open_many(items)}
        assert {path.removeprefix("/d/"): body for path, body in files.items()} == everything
        some = [item for item in items if item.path in ("a/2", "c\\d", "g/h/i")]
        assert {item.path for item in some} == {item.path for item, _ in reader.open_many(some)}
        many = reader.open_many(items)
        next(many)
        many.close()
        assert content(reader, items[-1]) == b"zzz"
        assert list(reader.open_many([])) == []


def test_ten_thousand_small_files(pachyderm: servers.PachydermServer) -> None:
    """10,000 files are planned in one call and read in one stream, each right."""
    files = {f"/png/{number // 100:03}/{number:05}.txt": str(number).encode() for number in range(10_000)}
    repo = new_repo(pachyderm, files)
    with driver(repo, address=pachyderm.address, path="/png") as reader:
        items = plan(reader)
        assert sorted(path.removeprefix("/png/") for path in files) == [item.path for item in items]
        for item, chunks in reader.open_many(items):
            assert str(int(item.path[-9:-4])).encode() == b"".join(chunks)


READ = """
import resource, sys, hashlib
from datamount.drivers.pachyderm import PachydermDriver
from datamount.manifest import Dataset, Pachyderm
source = Pachyderm(repo=sys.argv[1], address=sys.argv[2])
driver = PachydermDriver("images", Dataset(pachyderm=source), source, None)
(item,) = driver.plan(driver.resolve())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
digest = hashlib.sha256()
many = driver.open_many([item])
chunks = driver.open(item) if sys.argv[3] == "one" else next(many)[1]
for chunk in chunks:
    digest.update(chunk)
print(digest.hexdigest(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_big_file_in_bounded_memory() -> None:
    """Reading more than 2 GiB takes less than 150 MiB of memory, whether by one call or by a tar stream."""
    import hashlib

    with servers.PachydermServer() as server:
        digest, repo, client = hashlib.sha256(), new_repo(server, {}), server.client()
        block = bytearray(os.urandom(2 << 20))
        with client.commit(repo, "master", project_name="default") as made, client.modify_file_client(made) as change:
            for number in range(1025):
                block[:8] = number.to_bytes(8, "big")
                digest.update(block)
                change.put_file_from_bytes("/big.bin", bytes(block), append=number > 0)
        for how in ("one", "many"):
            command = [sys.executable, "-c", READ, repo, server.address, how]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=True)
            found, kilobytes = done.stdout.split()
            assert digest.hexdigest() == found
            assert int(kilobytes) < 150 * 1024


# --- servers that fail ------------------------------------------------------------------------------------------


def test_a_silent_server_is_given_up() -> None:
    """A stream that brings nothing for a while ends as a transient Unavailable that says so."""
    with servers.PachydermServer() as server:
        repo = new_repo(server)
        with driver(repo, address=server.address) as reader:
            (item,) = plan(reader)
            reader._watch.silence = 0.5
            assert server.process is not None
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                with pytest.raises(Unavailable) as caught:
                    content(reader, item)
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
        assert caught.value.transient
        assert "sent nothing" in caught.value.message


def test_a_server_that_dies_in_the_middle() -> None:
    """A stream that is cut off ends as a transient Unavailable, never as a short file."""
    with servers.PachydermServer() as server:
        repo = new_repo(server, {"/big.bin": bytes(80 << 20)})
        with driver(repo, address=server.address) as reader:
            (item,) = plan(reader)
            chunks = reader.open(item)
            next(chunks)
            assert server.process is not None
            server.process.kill()
            with pytest.raises(Unavailable) as caught:
                list(chunks)
        assert caught.value.transient


LEAVE = READ.replace("for chunk in chunks:", "for chunk in chunks:\n    print('reading', flush=True); sys.exit(3)")


def test_a_program_that_leaves_in_the_middle_ends(pachyderm: servers.PachydermServer) -> None:
    """Nothing of the driver keeps a process from ending, even with a stream open and nothing closed."""
    repo = new_repo(pachyderm, {"/big.bin": bytes(60 << 20)})
    command = [sys.executable, "-c", LEAVE, repo, pachyderm.address, "one"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (3, "reading\n"), done.stderr


# --- addresses, tokens, TLS -------------------------------------------------------------------------------------


def write_context(folder: Path, **context: str) -> Path:
    file = folder / "pach.json"
    file.write_text(json.dumps({"v2": {"active_context": "hub", "contexts": {"hub": context}}}))
    return file


def test_address_and_token_of_a_context(
    pachyderm_auth: servers.PachydermServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest without address uses PACH_CONFIG's active context, its token too."""
    repo = new_repo(pachyderm_auth)
    context = write_context(tmp_path, pachd_address=pachyderm_auth.address, session_token=pachyderm_auth.root_token)
    monkeypatch.setenv("PACH_CONFIG", str(context))
    with driver(repo) as reader:
        assert [content(reader, item) for item in plan(reader)] == [b"one"]


def test_address_and_token_of_the_environment(
    pachyderm_auth: servers.PachydermServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PACHD_ADDRESS and PACH_PYTHON_AUTH_TOKEN are used where the manifest and the credential say nothing."""
    repo = new_repo(pachyderm_auth)
    monkeypatch.setenv("PACHD_ADDRESS", pachyderm_auth.address)
    monkeypatch.setenv("PACH_PYTHON_AUTH_TOKEN", pachyderm_auth.root_token)
    with driver(repo) as reader:
        assert [content(reader, item) for item in plan(reader)] == [b"one"]


def test_a_manifest_does_not_get_the_tokens_of_the_environment(
    pachyderm_auth: servers.PachydermServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that only the manifest names is not sent the token that the environment or a context has."""
    repo = new_repo(pachyderm_auth)
    monkeypatch.setenv("PACH_PYTHON_AUTH_TOKEN", pachyderm_auth.root_token)
    context = write_context(tmp_path, pachd_address="grpc://pachd.example.edu", session_token=pachyderm_auth.root_token)
    monkeypatch.setenv("PACH_CONFIG", str(context))
    with driver(repo, address=pachyderm_auth.address) as reader:
        error = failure(reader)
    assert type(error) is Refused
    assert "no authentication token" in error.message
    assert "credential" in error.hint


def test_a_credential_is_for_its_own_server(pachyderm_auth: servers.PachydermServer) -> None:
    """A manifest that would carry a credential's token to another server is refused before anything is sent."""
    credential = Credential(address="grpc://pachd.example.edu", token=SecretStr(pachyderm_auth.root_token))
    with driver(new_repo(pachyderm_auth), credential, address=pachyderm_auth.address) as reader:
        error = failure(reader)
    assert type(error) is Refused
    assert "pachd.example.edu" in error.message
    assert pachyderm_auth.root_token not in error.sentence()


def test_an_expired_token_is_refused(pachyderm_auth: servers.PachydermServer) -> None:
    """pachd calls an expired token an internal error; here it is Refused, and not tried again."""
    repo = new_repo(pachyderm_auth)
    token = pachyderm_auth.client().get_robot_token("late", ttl=1)
    time.sleep(2.1)
    credential = Credential(address=pachyderm_auth.address, token=SecretStr(token))
    with driver(repo, credential) as reader:
        error = failure(reader)
    assert type(error) is Refused
    assert not error.transient
    assert "expired" in error.hint


def test_no_address_at_all() -> None:
    """Without any address the error says where one can be given."""
    with driver("radiology") as reader:
        error = failure(reader)
    assert type(error) is UsageError
    assert "address" in error.hint


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.PachydermServer]:
    certificate, key = self_signed(tmp_path_factory.mktemp("tls"))
    yield from servers.running(servers.PachydermServer(certificate=certificate, private_key=key))


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pachd of the tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def test_tls(tls: servers.PachydermServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """grpcs:// checks the certificate: by the context's authority, by SSL_CERT_FILE, else it fails and says so."""
    assert tls.certificate is not None
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with driver("radiology", address=tls.address) as reader:
        untrusted = failure(reader)
    assert type(untrusted) is Unavailable
    assert "SSL_CERT_FILE" in untrusted.hint
    assert not untrusted.transient
    authority = base64.b64encode(tls.certificate.read_bytes()).decode()
    with monkeypatch.context() as patch:
        context = write_context(tmp_path, pachd_address=tls.address, server_cas=authority)
        patch.setenv("PACH_CONFIG", str(context))
        with driver("radiology") as reader:
            assert type(failure(reader)) is NotFound  # it answered: the repo is not there
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
    with driver("radiology", address=tls.address) as reader:
        assert type(failure(reader)) is NotFound


def test_plain_against_tls(tls: servers.PachydermServer) -> None:
    """grpc:// at a server that wants TLS ends soon, as Unavailable."""
    with driver("radiology", address=f"grpc://127.0.0.1:{tls.port}") as reader:
        assert type(failure(reader)) is Unavailable


def test_the_server_runs_as_a_module(tmp_path: Path) -> None:
    """`python -m tests.pachyderm` says its address when it listens, and ends at SIGTERM."""
    port = servers.free_port()
    command = [sys.executable, "-m", "tests.pachyderm", "--port", str(port), "--folder", str(tmp_path / "pfs")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert f"grpc://127.0.0.1:{port}\n" == server.stdout.readline()
        server.terminate()
        assert server.wait(120) == 0


def test_the_server_keeps_its_data() -> None:
    """What was stored is there when the stand-in is stopped and started again, on the same port."""
    with servers.PachydermServer() as server:
        repo = new_repo(server)
        server.stop()
        server.start()
        with driver(repo, address=server.address) as reader:
            assert [content(reader, item) for item in plan(reader)] == [b"one"]
