"""The etcd store when members die, freeze, restart, compact, want certificates or passwords."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qnet.errors import Ambiguous, InvalidRequest, QnetError, Unavailable
from qnet.store.base import Batch, Event, Get, Lost, Put, Txn, absent
from qnet.store.cache import PrefixCache
from qnet.store.commit import GroupCommit
from qnet.store.etcd import EtcdStore, Tls
from tests.contract.etcd_process import Cluster, etcdctl, free_port


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    before = set(threading.enumerate())
    with ExitStack() as stack:
        yield stack
    mine = ("etcd-watch", "cache-reload", "lease-keeper")
    assert [t for t in threading.enumerate() if t.name in mine and t not in before] == []


def cluster_of(stack: ExitStack, size: int = 1, *options: str) -> Cluster:
    cluster = Cluster(size, options)
    stack.callback(cluster.close)
    return cluster.start().ready()


def open_store(stack: ExitStack, endpoints: list[str], **options: object) -> EtcdStore:
    store = EtcdStore(endpoints, **options)  # type: ignore[arg-type]
    stack.callback(store.close)
    return store


def until(condition: Callable[[], object], timeout: float = 15) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def persist(act: Callable[[], object], timeout: float = 15) -> None:
    """Repeat a call until the store is reachable."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            act()
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


class Sink:
    """Keeps events and complains of gaps in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.lost: list[Lost] = []

    def __call__(self, news: Batch | Lost) -> None:
        if isinstance(news, Lost):
            self.lost.append(news)
        else:
            self.events.extend(news.events)


def test_a_store_made_before_fork_works_after(stack: ExitStack) -> None:
    cluster = cluster_of(stack)
    store = EtcdStore(cluster.endpoints)
    code = f"""
import os, sys
from qnet.store.etcd import EtcdStore
store = EtcdStore({cluster.endpoints!r})
child = os.fork()
if child == 0:
    store.put("/child", b"1")
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([os.sys.executable, "-c", code], timeout=30, check=True)  # type: ignore[attr-defined]
    assert store.get("/child") is not None
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.get("/child")


def test_refused_connections_fail_fast_and_say_so(stack: ExitStack) -> None:
    endpoints = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    store = open_store(stack, endpoints)
    for act, what in ((lambda: store.get("/a"), "read /a"), (lambda: store.put("/a", b""), "write /a")):
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            act()
        assert time.monotonic() - began < 10
        assert not isinstance(caught.value, Ambiguous)
        listed = "; ".join(f"{endpoint}: connection refused" for endpoint in endpoints)
        assert str(caught.value) == f"cannot {what}: etcd is unreachable: {listed}"
    assert [status.error for status in store.status()] == ["connection refused"] * 2


def test_a_silent_address_does_not_eat_the_deadline(stack: ExitStack) -> None:
    """A listener with a full backlog: connections neither succeed nor fail, as when packets are dropped."""
    import socket

    silent = stack.enter_context(socket.socket())
    silent.bind(("127.0.0.1", 0))
    silent.listen(0)
    fillers = [stack.enter_context(socket.socket()) for _ in range(3)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(silent.getsockname())
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    cluster = cluster_of(stack)
    store = open_store(stack, [address, *cluster.endpoints])
    began = time.monotonic()
    store.put("/a", b"")
    assert time.monotonic() - began < 10
    assert store._links._good == 1  # asked first from now on
    store.put("/a", b"")
    alone = open_store(stack, [address], timeout=1.0)
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        alone.put("/a", b"")
    assert not isinstance(caught.value, Ambiguous)
    assert 0.8 < time.monotonic() - began < 10


def test_a_restarted_etcd_is_found_again_and_the_cache_catches_up(stack: ExitStack) -> None:
    cluster = cluster_of(stack)
    (member,) = cluster.members
    store, other = open_store(stack, cluster.endpoints), open_store(stack, cluster.endpoints)
    store.put("/p/a", b"1")
    cache = PrefixCache(store, "/p/")
    stack.callback(cache.close)
    cache.start()
    member.kill()
    with pytest.raises(Unavailable):
        store.get("/p/a")
    cluster.start(member)
    persist(lambda: other.put("/p/b", b"2"))
    assert cache.wait(other.put("/p/c", b"3"), 5)
    assert {suffix for suffix, _ in cache.items()} == {"a", "b", "c"}


def test_compaction_while_the_watch_is_away(stack: ExitStack) -> None:
    cluster = cluster_of(stack)
    store = open_store(stack, cluster.endpoints)
    store.put("/p/a", b"1")
    store.put("/p/gone", b"1")
    changes: list[tuple[str, bytes | None]] = []
    cache = PrefixCache(store, "/p/", changes.extend)
    stack.callback(cache.close)
    cache.start()
    hub = store._hub
    until(lambda: hub._by_id)
    hub._lock.acquire()  # keeps the stream from opening again while the world changes
    hub._call.cancel()
    try:
        with ExitStack() as away:
            writer = open_store(away, cluster.endpoints)
            writer.delete("/p/gone")
            writer.put("/p/a", b"2")
            now = writer.put("/p/new", b"1")
            etcdctl(cluster, "compact", str(now))
    finally:
        hub._lock.release()
    assert cache.wait(store.put("/p/last", b""), 10)
    assert {suffix for suffix, _ in cache.items()} == {"a", "new", "last"}
    assert set(changes[2:]) == {("a", b"2"), ("new", b"1"), ("gone", None), ("last", b"")}


@pytest.mark.slow
def test_kill_the_leader_under_load(stack: ExitStack) -> None:
    """No acknowledged write is lost, no repeatable create is done twice, the watch has each event once."""
    cluster = cluster_of(stack, 3)
    store = open_store(stack, cluster.endpoints)
    sink = Sink()
    store.watch("/w/", store.put("/start", b"") + 1, sink)
    group = GroupCommit(store)
    acknowledged: dict[str, str] = {}
    stop = threading.Event()
    failures: list[BaseException] = []

    def write(me: int) -> None:
        for i in itertools.count():
            key, mark = f"/w/{me}/{i}", f"{me}-{i}"
            txn = Txn((absent(key),), (Put(key, mark.encode()),), (Get(key),))
            while not stop.is_set():
                try:
                    result = group.txn(txn, repeatable=True)
                except Unavailable:
                    time.sleep(0.02)
                    continue
                except BaseException as error:
                    failures.append(error)
                    raise
                if not result.succeeded:  # our own create of an earlier try
                    assert result.results[0][0].value == mark.encode()  # type: ignore[index]
                acknowledged[key] = mark
                break
            if stop.is_set():
                return

    writers = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for writer in writers:
        writer.start()
    for _ in range(3):
        time.sleep(1.5)
        leader = cluster.leader()
        leader.kill()
        count = len(acknowledged)
        until(lambda count=count: len(acknowledged) > count + 50)  # type: ignore[misc]
        cluster.start(leader).ready()
    stop.set()
    for writer in writers:
        writer.join()
    assert not failures
    found = {kv.key: kv for kv in store.range("/w/").kvs}
    assert {key: found[key].value.decode() for key in acknowledged} == acknowledged
    assert all(kv.create_revision == kv.mod_revision for kv in found.values())
    until(lambda: len(sink.events) >= len(found))
    assert sorted(e.key for e in sink.events) == sorted(found)
    revisions = [e.mod_revision for e in sink.events]
    assert revisions == sorted(revisions)
    assert not sink.lost


@pytest.mark.slow
def test_a_frozen_member_is_left(stack: ExitStack) -> None:
    """Half-open connections: calls succeed elsewhere within the deadline, the watch moves within 10 s or so."""
    cluster = cluster_of(stack, 3)
    leader = cluster.leader()
    frozen = next(m for m in cluster.members if m is not leader)
    others = [m.endpoint for m in cluster.members if m is not frozen]
    store = open_store(stack, [frozen.endpoint, *others])
    sink = Sink()
    store.watch("/w/", store.put("/w/0", b"") + 1, sink)
    store.put("/w/1", b"")
    until(lambda: len(sink.events) == 1)
    frozen.freeze()
    assert store.get("/w/1") is not None
    time.sleep(0.2)
    store.put("/w/2", b"")
    until(lambda: len(sink.events) == 2, timeout=13)
    frozen.thaw()
    store.put("/w/3", b"")
    until(lambda: len(sink.events) == 3)
    assert [e.key for e in sink.events] == ["/w/1", "/w/2", "/w/3"]


@pytest.mark.slow
def test_a_request_that_may_not_run_twice_avoids_a_connection_gone_stale(stack: ExitStack) -> None:
    cluster = cluster_of(stack, 3)
    leader = cluster.leader()
    frozen = next(m for m in cluster.members if m is not leader)
    store = open_store(stack, [frozen.endpoint, *(m.endpoint for m in cluster.members if m is not frozen)])
    store.put("/a", b"1")
    frozen.freeze()
    with pytest.raises(Ambiguous, match=r"(no answer in time|ping timeout).*may have taken effect"):
        store.put("/a", b"2")  # nothing told that it was frozen
    frozen.thaw()
    persist(lambda: store.put("/a", b"3"))
    for member in cluster.members:
        if member is not leader:
            frozen = member
    time.sleep(1.2)
    frozen.freeze()
    store.put("/a", b"4")
    frozen.thaw()


@pytest.mark.slow
def test_a_member_without_quorum_is_left(stack: ExitStack) -> None:
    """Two of three members are frozen: an error within the deadline; they thaw: it works again."""
    cluster = cluster_of(stack, 3)
    store = open_store(stack, cluster.endpoints)
    sink = Sink()
    store.watch("/w/", store.put("/w/0", b"") + 1, sink)
    for member in cluster.members[:2]:
        member.freeze()
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            store.get("/w/0")
        assert time.monotonic() - began < 20
    for member in cluster.members[:2]:
        member.thaw()
    persist(lambda: store.txn(Txn((absent("/w/1"),), (Put("/w/1", b""),)), repeatable=True))
    until(lambda: sink.events)
    assert [e.key for e in sink.events] == ["/w/1"]


def openssl(folder: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True, timeout=30)


def authority(folder: Path, name: str) -> None:
    openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip


def certificate(folder: Path, ca: str, name: str) -> None:
    openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-days", "2",
            "-CAcreateserial", "-extfile", "san", "-out", f"{name}.pem")  # fmt: skip


def test_tls_with_client_certificates(stack: ExitStack, tmp_path: Path) -> None:
    for ca in ("ca", "stranger"):
        authority(tmp_path, ca)
    for ca, name in (("ca", "server"), ("ca", "client"), ("stranger", "intruder")):
        certificate(tmp_path, ca, name)

    def path(name: str) -> str:
        return str(tmp_path / name)

    options = ["--cert-file", path("server.pem"), "--key-file", path("server.key"), "--client-cert-auth"]
    cluster = Cluster(1, [*options, "--trusted-ca-file", path("ca.pem")], scheme="https")
    stack.callback(cluster.close)
    cluster.start()
    store = open_store(stack, cluster.endpoints, tls=Tls(path("ca.pem"), path("client.pem"), path("client.key")))
    cluster.ready(store)
    sink = Sink()
    store.watch("/", store.put("/a", b"1") + 1, sink)
    store.put("/a", b"2")
    until(lambda: sink.events)
    wrong = {
        "intruder": Tls(path("ca.pem"), path("intruder.pem"), path("intruder.key")),
        "none": Tls(path("ca.pem")),
        "server of a stranger": Tls(path("stranger.pem"), path("client.pem"), path("client.key")),
    }
    for tls in wrong.values():
        with pytest.raises(Unavailable, match=cluster.endpoints[0]):
            open_store(stack, cluster.endpoints, tls=tls, timeout=1.5).put("/a", b"3")
    with pytest.raises(Unavailable):
        open_store(stack, cluster.endpoints, timeout=1.5).put("/a", b"3")
    with pytest.raises(InvalidRequest, match=r"cannot read .*missing\.pem"):
        open_store(stack, cluster.endpoints, tls=Tls(path("missing.pem"))).get("/a")
    found = store.get("/a")
    assert found is not None
    assert found.value == b"2"


def test_user_and_password(stack: ExitStack) -> None:
    cluster = cluster_of(stack, 1, "--auth-token", "simple")
    (member,) = cluster.members
    for command in (
        ("user", "add", "root:hunter2"),
        ("user", "grant-role", "root", "root"),
        ("role", "add", "qnet"),
        ("role", "grant-permission", "qnet", "--prefix=true", "readwrite", "/qnet/"),
        ("user", "add", "qnet:s3cret"),
        ("user", "grant-role", "qnet", "qnet"),
    ):
        etcdctl(cluster, *command)
    early = open_store(stack, cluster.endpoints, user="qnet", password="s3cret")
    early.put("/qnet/early", b"")  # authentication is still off
    etcdctl(cluster, "auth", "enable")
    early.put("/qnet/early", b"")
    store = open_store(stack, cluster.endpoints, user="qnet", password="s3cret")
    sink = Sink()
    store.watch("/qnet/", store.put("/qnet/a", b"1") + 1, sink)
    for refused in (lambda: store.put("/other", b""), lambda: store.get("/other")):
        with pytest.raises(InvalidRequest, match="permission denied"):
            refused()
    for user, password in (("qnet", "wrong-pass"), ("nobody", "wrong-pass")):
        with pytest.raises(InvalidRequest, match="authentication failed") as caught:
            open_store(stack, cluster.endpoints, user=user, password=password).get("/qnet/a")
        assert "wrong-pass" not in f"{caught.value!r} {caught.value.__cause__!r}"
    with pytest.raises(InvalidRequest, match="user name is empty"):
        open_store(stack, cluster.endpoints).get("/qnet/a")
    for i in range(2):  # a restart forgets all simple tokens
        member.kill()
        cluster.start(member)
        persist(lambda: early.put("/qnet/b", b"2"))
        assert store.get("/qnet/b") is not None
        until(lambda i=i: len(sink.events) == i + 1)  # type: ignore[misc]


@pytest.mark.slow
def test_close_leaves_no_threads_and_no_connections(stack: ExitStack) -> None:
    cluster = cluster_of(stack)
    port = int(cluster.endpoints[0].rpartition(":")[2])
    before, own = threading.active_count(), len(established(port))  # etcd connects to itself, too
    for _ in range(5):
        store = EtcdStore(cluster.endpoints)
        now = store.put("/a", b"")
        for i in range(20):
            store.watch(f"/{i}/", now + 1, Sink())
        store.get("/a")
        store.close()
        with pytest.raises(QnetError):
            store.watch("/", 1, Sink())
    until(lambda: threading.active_count() <= before, timeout=5)
    until(lambda: len(established(port)) <= own, timeout=5)


def established(port: int) -> list[str]:
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return [row[2] for row in rows if row[3] == "01" and int(row[2].partition(":")[2], 16) == port and row[1] != row[2]]
