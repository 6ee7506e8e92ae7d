"""The cluster's authority, what it signs, and invitations: whole ones, cut ones, and those of somebody else."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from qnet import invitation
from qnet.authority import Authority, Pair, certificates
from qnet.certificates import Peer, peer_of, server_context
from qnet.errors import InvalidRequest
from qnet.invitation import Invitation

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("qnet test")


def written(folder: Path, name: str, pair: Pair) -> tuple[str, str]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(pair.cert_pem)
    key.write_bytes(pair.key_pem)
    return str(cert), str(key)


def invited(authority: Authority, **fields: object) -> Invitation:
    made = Invitation(
        name="host2",
        address="10.0.0.2",
        parent="eth1",
        endpoints=("10.0.0.1:2379",),
        issued=int(datetime.now(UTC).timestamp()),
        ca=authority.pair.cert.public_bytes(Encoding.DER),
        host=authority.issue("host", "host2", ("host2", "10.0.0.2")).der,
        scheduler=authority.issue("scheduler", "host2", ("host2", "10.0.0.2")).der,
    )
    return msgspec.structs.replace(made, **fields)


def met(folder: Path, authority: Authority, server: Pair, client: Pair, name: str) -> Peer | None:
    """Who a server sees when this client calls it by this name. Raises ssl.SSLError."""
    ca = folder / "ca.pem"
    ca.write_bytes(authority.pair.cert_pem)
    context = server_context(str(ca), *written(folder, "server", server))
    ours = ssl.create_default_context(cafile=str(ca))
    ours.verify_flags |= ssl.VERIFY_X509_STRICT
    ours.load_cert_chain(*written(folder, "client", client))
    left, right = socket.socketpair()
    seen: list[Peer | None] = []

    def serve() -> None:
        try:
            with context.wrap_socket(left, server_side=True) as end:
                seen.append(peer_of(end))
                end.send(b"!")
        except OSError:
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours.wrap_socket(right, server_hostname=name) as end:
            end.recv(1)
    finally:
        right.close()
        thread.join()
    return seen[0]


def test_both_ends_know_each_other_by_name_address_and_role(tmp_path: Path, authority: Authority) -> None:
    server = authority.issue("host", "host1", ("host1", "10.0.0.1", "fd00::1"))
    for name in ("host1", "10.0.0.1", "fd00::1"):
        assert met(tmp_path, authority, server, authority.issue("tenant", "shop"), name) == Peer("tenant", "shop")
    with pytest.raises(ssl.SSLCertVerificationError, match="host2"):
        met(tmp_path, authority, server, authority.issue("tenant", "shop"), "host2")


def test_a_users_certificate_is_no_servers(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(ssl.SSLError):
        met(tmp_path, authority, authority.issue("operator", "ann"), authority.issue("tenant", "shop"), "ann")


def test_another_authority_of_the_same_name_is_not_believed(tmp_path: Path, authority: Authority) -> None:
    server, other = authority.issue("host", "host1", ("host1",)), Authority.create("qnet test")
    with pytest.raises(ssl.SSLError):
        met(tmp_path, authority, server, other.issue("operator", "ann"), "host1")


def test_a_certificate_signs_no_other(tmp_path: Path, authority: Authority) -> None:
    host = authority.issue("host", "host1", ("host1",))
    forged = Authority(host).issue("operator", "mallory")
    chain = Pair(forged.cert, forged.key)
    with pytest.raises(ssl.SSLError):
        met(tmp_path, authority, host, chain, "host1")


def test_the_authority_is_read_from_its_files_and_nowhere_else(tmp_path: Path, authority: Authority) -> None:
    written(tmp_path, "ca", authority.pair)
    assert Authority.load(tmp_path).pair.cert == authority.pair.cert
    (tmp_path / "ca.key").write_bytes(Authority.create("x").pair.key_pem)
    with pytest.raises(InvalidRequest, match="this key is not that certificate's"):
        Authority.load(tmp_path)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(InvalidRequest, match="on which qnet init was typed"):
        Authority.load(tmp_path)


def test_nothing_outlives_the_authority() -> None:
    short = Authority.create("short", days=3)
    assert short.issue("host", "h", days=730).cert.not_valid_after_utc <= short.pair.cert.not_valid_after_utc
    with pytest.raises(InvalidRequest, match="authority's certificate ended"):
        Authority.create("ended", days=0).issue("host", "h")


def test_certificates_are_told_soonest_end_first(tmp_path: Path, authority: Authority) -> None:
    written(tmp_path, "ca", authority.pair)
    written(tmp_path, "client", authority.issue("operator", "ann", days=300))
    written(tmp_path, "host", authority.issue("host", "host1", days=20))
    found = [(one.file.name, one.role, one.name) for one in certificates(tmp_path)]
    assert found[:2] == [("host.pem", "host", "host1"), ("client.pem", "operator", "ann")]
    assert [name for name, *_ in found] == ["host.pem", "client.pem", "ca.pem"]


def test_renewed_it_is_the_same_owners_with_another_key(authority: Authority) -> None:
    old = authority.issue("host", "host1", ("host1", "10.0.0.1"), days=5)
    new = authority.renew(old.cert, 500)
    assert (new.cert.subject, new.cert.not_valid_after_utc > old.cert.not_valid_after_utc) == (old.cert.subject, True)
    assert new.cert.public_key() != old.cert.public_key()
    assert [str(one.value) for one in new.cert.extensions[-1].value] == ["host1", "10.0.0.1"]  # type: ignore[attr-defined]


def test_a_name_that_no_certificate_can_have(authority: Authority) -> None:
    with pytest.raises(InvalidRequest, match="neither an address nor a name"):
        authority.issue("host", "host1", ("höst",))


def test_an_invitation_arrives_as_it_was_made(authority: Authority) -> None:
    made = invited(authority)
    line = made.line()
    assert len(line) < invitation.LONGEST
    assert not set(line) & set("' \n\"\\$!")
    assert invitation.read(f" {line}\n") == made
    found = invitation.check(made)
    assert found.host.key_pem == Pair.of_der(*made.host).key_pem


def test_an_invitation_that_was_cut_or_changed(authority: Authority) -> None:
    line = invited(authority).line()
    rng = random.Random(1)
    for cut in (*range(len("qnet1."), len(line), 97), len(line) - 1):
        with pytest.raises(InvalidRequest, match="cut or changed"):
            invitation.read(line[:cut])
    for _ in range(200):
        at = rng.randrange(len("qnet1."), len(line) - 1)
        other = rng.choice([letter for letter in "abcXYZ019-_ é=" if letter != line[at]])
        with pytest.raises(InvalidRequest, match="cut or changed"):
            invitation.read(line[:at] + other + line[at + 1 :])
    for nothing in ("", "hello", "qnet2." + line[6:]):
        with pytest.raises(InvalidRequest, match="no invitation on standard input"):
            invitation.read(nothing)


def test_an_invitation_with_certificates_of_others(authority: Authority) -> None:
    other = Authority.create("qnet test")
    for wrong in (
        {"host": other.issue("host", "host2").der},
        {"host": authority.issue("host", "host3").der},
        {"host": authority.issue("tenant", "host2").der},
        {"scheduler": authority.issue("host", "host2").der},
        {"ca": other.pair.cert.public_bytes(Encoding.DER)},
    ):
        with pytest.raises(InvalidRequest, match="is not host2's by its authority"):
            invitation.check(invited(authority, **wrong))
    mixed = (authority.issue("host", "host2").der[0], authority.issue("host", "host2").der[1])
    with pytest.raises(InvalidRequest, match="damaged certificate: this key is not that certificate's"):
        invitation.check(invited(authority, host=mixed))


def test_an_invitation_that_has_ended_or_a_clock_that_is_wrong(authority: Authority) -> None:
    made, now = invited(authority), datetime.now(UTC)
    invitation.check(made, now + 700 * 24 * HOUR)
    with pytest.raises(InvalidRequest, match=r"certificates ended at .* ask for another \(qnet invite host2\)"):
        invitation.check(made, now + 731 * 24 * HOUR)
    with pytest.raises(InvalidRequest, match=r"clock is 3[56][0-9][0-9] s behind"):
        invitation.check(made, now - HOUR)
    invitation.check(made, now - HOUR / 20)


def test_an_invitation_too_long_for_a_terminal(authority: Authority) -> None:
    names = tuple(f"{random.Random(number).getrandbits(256):064x}"[:60] for number in range(60))
    long = invited(authority, host=authority.issue("host", "host2", names).der)
    with pytest.raises(InvalidRequest, match="more than 4000"):
        long.line()
