"""Debian's etcd on this host, as the cluster's store: by TLS only, for hosts of the cluster only."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from pathlib import Path

from plugins.cli import hostfiles
from plugins.cli.hostfiles import Place
from qnet import commands, schema
from qnet.authority import STORE_CLIENT, Authority, Pair
from qnet.connect import open_store
from qnet.errors import Conflict, InvalidRequest, QnetError, Unavailable
from qnet.listen import location
from qnet.settings import Etcd

DEFAULTS = Path("/etc/default/etcd")
UNIT = Path("/etc/systemd/system/etcd.service.d/qnet.conf")
# Debian's unit does not wait for the address that it listens at, and leaves an etcd that ended with an error alone
AT_ALL_TIMES = b"""# by qnet init
[Unit]
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0
[Service]
Restart=always
RestartSec=2
"""
PORT = 2379
PATIENCE = 30.0  # seconds for etcd to start and answer
PAUSE = 0.2
FILES = ("ca.pem", "cert.pem", "key.pem")


def folder(place: Place) -> Path:
    """Where etcd's own copies lie."""
    return place.settings.parent / "etcd"


def endpoint(address: str) -> str:
    """Where etcd listens for the hosts."""
    return location(address, PORT)


def issue(authority: Authority, name: str, address: str, days: int) -> Pair:
    """Its certificate. It shows that to itself too, so it has a client's name."""
    return authority.issue("etcd", name, (name, address, "localhost", "127.0.0.1", STORE_CLIENT), days)


def set_up(undo: ExitStack, place: Place, defaults: Path, address: str, ca: bytes, pair: Pair) -> None:
    """Write its certificates and settings. Raises Conflict: it has settings already; InvalidRequest."""
    text = defaults.read_text() if defaults.exists() else ""
    if own := [line for line in text.splitlines() if line.startswith(("ETCD_", "DAEMON_ARGS="))]:
        raise Conflict(
            f"etcd of this host is set up already ({defaults}: {own[0]}): name it, --etcd HOST:PORT with --etcd-ca, "
            f"--etcd-cert and --etcd-key, or comment those lines out"
        )
    put_pair(undo, place, ca, pair)
    ca_file, cert, key = (folder(place) / name for name in FILES)
    options = {
        "LISTEN_CLIENT_URLS": f"https://127.0.0.1:{PORT},https://{endpoint(address)}",
        "ADVERTISE_CLIENT_URLS": f"https://{endpoint(address)}",
        "CERT_FILE": cert,
        "KEY_FILE": key,
        "TRUSTED_CA_FILE": ca_file,
        "CLIENT_CERT_AUTH": "true",
        "CLIENT_CERT_ALLOWED_HOSTNAME": STORE_CLIENT,
        "AUTO_COMPACTION_MODE": "periodic",  # else etcd keeps all that hosts ever told, until its quota is full
        "AUTO_COMPACTION_RETENTION": "1h",
    }
    lines = "".join(f'ETCD_{option}="{value}"\n' for option, value in options.items())
    separator = "" if not text or text.endswith("\n") else "\n"
    hostfiles.put(undo, defaults, f"{text}{separator}# by qnet init\n{lines}".encode())


def put_pair(undo: ExitStack, place: Place, ca: bytes, pair: Pair) -> None:
    """Write the certificates that it reads. Raises InvalidRequest."""
    owner = hostfiles.user("etcd")
    for name, data in zip(FILES, (ca, pair.cert_pem, pair.key_pem), strict=True):
        hostfiles.put(undo, folder(place) / name, data, hostfiles.SECRET, owner)


def start(undo: ExitStack, config: Etcd) -> None:
    """Start it, now and at each boot, and wait until it answers. Raises Unavailable."""
    undo.callback(_stop)  # last, when the files are gone: disabling has systemd read them again
    hostfiles.put(undo, UNIT, AT_ALL_TIMES)
    commands.run(("systemctl", "daemon-reload"), "have systemd know how etcd is started", timeout=PATIENCE)
    commands.run(("systemctl", "enable", "etcd"), "have etcd started at boot", timeout=PATIENCE)
    commands.run(("systemctl", "restart", "etcd"), "start etcd", timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            check(config)
        except Unavailable as error:
            if time.monotonic() > deadline:
                raise Unavailable(f"etcd does not answer after {PATIENCE:g} s (journalctl -u etcd): {error}") from error
            time.sleep(PAUSE)
        else:
            return


def other(endpoints: str, ca: str, cert: str, key: str) -> Etcd:
    """The settings of an etcd that somebody else runs, when it answers. Raises Unavailable, InvalidRequest."""
    if bool(cert) != bool(key) or (cert and not ca):
        raise InvalidRequest("--etcd-cert needs --etcd-key and --etcd-ca")
    config = Etcd(parse_endpoints(endpoints), ca, cert, key)
    check(config)
    return config


def check(config: Etcd) -> None:
    """Read something. Raises Unavailable, InvalidRequest: what is wrong."""
    store = open_store(config)
    try:
        store.get(schema.ROOT)
    finally:
        store.close()


def _stop() -> None:
    """It holds nothing yet that anybody needs, and its settings are gone."""
    with suppress(QnetError):
        commands.run(("systemctl", "disable", "--now", "etcd"), "stop etcd", timeout=PATIENCE)


def parse_endpoints(text: str) -> tuple[str, ...]:
    """`HOST:PORT,…`. Raises InvalidRequest."""
    found = tuple(part.strip() for part in text.split(","))
    for part in found:
        host, _, port = part.rpartition(":")
        if not host or "/" in part or not port.isdigit():
            raise InvalidRequest(f"--etcd {text!r}: here, or HOST:PORT, several with commas: 10.0.0.11:2379")
    return found
