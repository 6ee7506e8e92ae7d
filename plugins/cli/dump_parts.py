"""What `qnet support-dump` collects: each part by itself, so that one that fails does not keep the others away."""

from __future__ import annotations

import json
import platform
import stat
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from plugins.cli import redaction, unixhttp
from plugins.cli.daemon_checks import DAEMONS, SHOWN, UNITS
from plugins.cli.doctor import examine
from plugins.cli.session import Session
from qnet import commands, nft, schema
from qnet.errors import QnetError, Unavailable
from qnet.listen import is_loopback, parse_listen
from qnet.settings import Settings

ANSWER = 10.0  # seconds for a command, or an answer
MOST = 1000  # containers that are looked at
FOLDERS = ("networks", "volumes", "containers", "endpoints")
LISTED = ("/etc/qnet", "/etc/qnet/tls", "/run/docker/plugins")
COMMANDS = {
    "network/links.txt": "ip -details -statistics link",
    "network/addresses.txt": "ip address",
    "network/routes.txt": "ip route show table all",
    "network/routes6.txt": "ip -6 route show table all",
    "network/rules.txt": "ip rule",
    "network/forwarding.txt": "bridge fdb show",
    "network/queues.txt": "tc -statistics qdisc show",
}

Part = Callable[[], str]


def parts(session: Session, settings: Settings, lines: int) -> dict[str, Part]:
    """How each file of the archive is made. Raising QnetError or OSError, a part says why it is missing."""
    engine, own = settings.docker.socket, settings.host
    found: dict[str, Part] = {
        "doctor.txt": lambda: "".join(f"{one.level:<5}{one.what} — {one.todo}\n" for one in examine(session)),
        "settings.json": lambda: _json(redaction.known(msgspec.to_builtins(session.settings))),
        "versions.json": lambda: _json(_versions(session, settings)),
        "units.txt": lambda: session.units((*SHOWN, "ActiveEnterTimestamp", "MainPID", "MemoryCurrent"), UNITS),
        "store.jsonl": partial(_store, session),
        "engine/info.json": partial(_engine, engine, "/info", redaction.INFO),
        "engine/networks.json": partial(_engine, engine, "/networks", redaction.NETWORK),
        "engine/containers.json": partial(_containers, engine),
        "network/nftables.txt": _tables,
        "mounts.txt": lambda: _mounts(settings),
        "files/listing.txt": lambda: "\n".join(_listing(own.state_dir, own.run_dir, *LISTED)),
        "files/releases.journal": lambda: _text(Path(own.state_dir) / "releases.journal"),
    }
    for folder in FOLDERS:
        found[f"files/{folder}.json"] = partial(_folder, (Path(own.state_dir), Path(own.run_dir)), folder)
    for name, command in COMMANDS.items():
        found[name] = partial(commands.run, command.split(), f"write {name}", timeout=ANSWER)
    for unit in DAEMONS:
        found[f"journal/{unit}.txt"] = partial(_journal, session, unit, lines)
    sockets = {
        "qnet-network": settings.network.socket,
        "sharedfs": settings.volume.socket,
        "qnet-scheduler": settings.scheduler.socket,
        "qnet-gateway": settings.gateway.socket,
    }
    for name, path in sockets.items():
        found[f"metrics/{name}.txt"] = partial(unixhttp.read, path, "/metrics", ANSWER)
    found["metrics/qnet-agent.txt"] = partial(_scraped, settings.metrics.agent)
    return found


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _text(file: Path) -> str:
    return file.read_text(errors="replace")


def _versions(session: Session, settings: Settings) -> dict[str, Any]:
    told: dict[str, Any] = {
        "qnet": metadata.version("qnet"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
    }
    for name in sorted(part.partition(">")[0].split(";")[0].strip() for part in metadata.requires("qnet") or ()):
        try:
            told[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # of extras
            continue
    told["engine"] = _asked(lambda: unixhttp.request(settings.docker.socket, "GET", "/version", ANSWER).get("Version"))
    told["gluster"] = _asked(lambda: commands.run(["gluster", "--version"], "ask gluster").splitlines()[0])
    with session.store() as store:
        told["etcd"] = {one.endpoint: one.version or one.error for one in store.status()}
    return told


def _asked(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except QnetError as error:
        return str(error)


def _store(session: Session) -> str:
    with session.store() as store:
        found = store.range(schema.ROOT).kvs
    lines = ({"key": kv.key, "revision": kv.mod_revision, "value": redaction.record(kv.key, kv.value)} for kv in found)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _engine(path: str, url: str, allowed: redaction.Allowed) -> str:
    return _json(redaction.picked(_got(path, url), allowed))


def _containers(path: str) -> str:
    listed = _got(path, "/containers/json?all=1")
    found = []
    for one in listed[:MOST]:
        try:
            inspected = _got(path, f"/containers/{one['Id']}/json")
        except Unavailable as error:  # it may have gone meanwhile
            found.append({"Id": one["Id"], "error": str(error)})
            continue
        told = redaction.picked(inspected, redaction.CONTAINER)
        found.append({**told, "Labels": redaction.labels((inspected.get("Config") or {}).get("Labels"))})
    return _json({"all": len(listed), "containers": found})


def _got(path: str, url: str) -> Any:
    text = unixhttp.read(path, url, ANSWER)
    try:
        return json.loads(text)
    except ValueError as error:
        raise Unavailable(f"{url}: {error}") from error


def _tables() -> str:
    """The tables that are qnet's: their names say so."""
    every = (line.split() for line in nft.run("list tables", "list tables").splitlines())
    mine = (words for words in every if len(words) == 3 and words[2].startswith("qnet"))
    return "\n".join(nft.run(f"list table {family} {name}", "list a table") for _, family, name in mine)


def _mounts(settings: Settings) -> str:
    roots = (settings.volume.root, settings.host.state_dir, settings.host.run_dir)
    lines = _text(Path("/proc/self/mountinfo")).splitlines()
    return "".join(f"{line}\n" for line in lines if line.split()[4].startswith(roots))


def _listing(*folders: str) -> Iterator[str]:
    """Names, modes, owners and sizes; nothing of what is in the files."""
    for folder in folders:
        try:
            for file in sorted(Path(folder).iterdir()):
                about = file.lstat()
                yield f"{stat.filemode(about.st_mode)} {about.st_uid}:{about.st_gid} {about.st_size} {file}"
        except OSError as error:
            yield f"{folder}: {error.strerror}"


def _folder(roots: tuple[Path, ...], folder: str) -> str:
    files = [file for root in roots for file in sorted((root / folder).glob("*.json"))]
    return _json({file.name: redaction.known(msgspec.json.decode(file.read_bytes())) for file in files})


def _scraped(listen: str) -> str:
    """What a daemon without a socket in the file system measures."""
    host, port = parse_listen(listen) if listen else ("", 0)
    if not is_loopback(host):
        raise Unavailable(f"[metrics] agent = {listen!r} is not on loopback: ask there, with an operator's certificate")
    return unixhttp.read_at(host, port, "/metrics", ANSWER)


def _journal(session: Session, unit: str, lines: int) -> str:
    if not session.units(("Id",), (f"{unit}.service",)):
        raise Unavailable("systemd does not run here")
    words = ("journalctl", "-u", unit, "-n", str(lines), "-o", "short-iso", "--no-pager", "-q")
    return commands.run(words, "read the journal", timeout=ANSWER)
