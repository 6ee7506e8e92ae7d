"""qnet's network plugin on a host, and its settings file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from tests.lab.etcd import endpoints
from tests.lab.model import PROJECT, LabError, Node
from tests.lab.namespaces import Namespaces
from tests.lab.service import Service
from tests.lab.unixhttp import answers

COMMAND = (str(PROJECT / ".venv/bin/qnet-network"),)
SUPERNETS = ["10.128.0.0/12", "fd00:128::/48"]


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        known = merged.get(key)
        merged[key] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _dump(table: dict[str, Any], path: tuple[str, ...] = ()) -> list[str]:
    """TOML for tables of strings, numbers, booleans and lists; JSON writes such values the same way."""
    lines = [f"[{'.'.join(_key(part) for part in path)}]"] if path else []
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines += [f"{_key(key)} = {json.dumps(value)}" for key, value in table.items() if key not in tables]
    for key, value in tables.items():
        lines += ["", *_dump(value, (*path, key))]
    return lines


def settings(node: Node, members: Sequence[Node], extra: str = "") -> str:
    """/etc/qnet/qnet.toml of a host; `extra` is TOML that adds to it or replaces parts of it."""
    base = {
        "host": {"name": node.name},
        "etcd": {"endpoints": endpoints(members)},
        "network": {"parent": "eth1", "underlay": "eth0"},
        "ipam": {"supernets": {"default": SUPERNETS}},
        "agent": {
            "address": f"{node.address}:7443",
            "labels": {"rack": f"r{(node.index + 1) // 2}", "disk": "ssd" if node.index % 2 else "hdd"},
        },
    }
    return "\n".join(_dump(_merge(base, parse_settings(extra)))).lstrip() + "\n"


def parse_settings(text: str) -> dict[str, Any]:
    """The extra settings as a table. Raises LabError if they are no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        raise LabError(f"extra settings are no TOML: {wrong}") from wrong


class VolumePlugin(Service):
    """The volume plugin; it answers at /run/docker/plugins/sharedfs.sock of its host."""

    name = "sharedfs"

    def argv(self) -> list[str]:
        return [str(PROJECT / ".venv/bin/sharedfs")]

    def environment(self) -> dict[str, str]:
        return {"PYTHONUNBUFFERED": "1"}

    def ready(self) -> bool:
        return answers(self.node.volume_socket, "POST", "/Plugin.Activate")


class Plugin(Service):
    """The network plugin; it answers at /run/docker/plugins/qnet.sock of its host."""

    name = "qnet-network"

    def __init__(self, node: Node, namespaces: Namespaces, command: Sequence[str]) -> None:
        super().__init__(node, namespaces)
        self._command = list(command or COMMAND)

    def argv(self) -> list[str]:
        return self._command

    def environment(self) -> dict[str, str]:
        return {"PYTHONUNBUFFERED": "1"}

    def ready(self) -> bool:
        return answers(self.node.plugin_socket, "POST", "/Plugin.Activate")
