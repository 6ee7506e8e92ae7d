"""What a lab looks like: names, addresses and places, all derived from its shape and directory."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
BUILD = PROJECT / "build"
DEFAULT_DIR = Path("/run/qnet-lab")
DEFAULT_DATA = Path("/var/tmp/qnet-lab")
ENGINES = ("debian12", "debian13", "unstable")
LONGEST_SOCKET = 107  # bytes: sun_path holds 108 with the closing zero (unix(7))


class LabError(Exception):
    """Something about the lab does not hold; the message is for the person at the keyboard."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a lab lives. Every lab directory has names of its own, so that two labs can exist."""

    dir: Path
    data: Path
    prefix: str

    @classmethod
    def find(cls, directory: str | Path | None = None) -> Layout:
        """The layout for a directory: the argument, QNET_LAB_DIR or the default."""
        chosen = Path(directory or os.environ.get("QNET_LAB_DIR") or DEFAULT_DIR).absolute()
        digest = hashlib.sha256(str(chosen).encode()).hexdigest()
        suffix = "" if chosen == DEFAULT_DIR else f"-{digest[:4]}"
        data = os.environ.get("QNET_LAB_DATA") or f"{DEFAULT_DATA}{suffix}"
        layout = cls(chosen, Path(data).absolute(), f"qlab{suffix}")
        socket = layout.dir / "host99/run/docker/plugins/qnet.sock"
        if len(str(socket)) > LONGEST_SOCKET:
            raise LabError(f"lab directory {chosen} is too long: {socket} does not fit into a socket address")
        if layout.dir.is_relative_to(layout.data):
            raise LabError(f"lab directory {chosen} must not lie in the data directory {layout.data}")
        return layout

    @property
    def state_file(self) -> Path:
        return self.dir / "state.json"

    @property
    def fabric(self) -> str:
        """The network namespace that holds the bridges."""
        return f"{self.prefix}-fabric"

    def node(self, index: int) -> Node:
        return Node(self, index)


@dataclass(frozen=True, slots=True)
class Node:
    """Names, addresses and places of host number `index` (from 1)."""

    layout: Layout
    index: int

    @property
    def name(self) -> str:
        return f"host{self.index}"

    @property
    def netns(self) -> str:
        return f"{self.layout.prefix}-{self.name}"

    @property
    def cgroup(self) -> str:
        """The parent of all its containers' control groups."""
        return f"/{self.netns}"

    @property
    def address(self) -> str:
        """Its address on eth0, the underlay."""
        return f"10.99.0.{10 + self.index}"

    @property
    def address6(self) -> str:
        return f"fd99::{10 + self.index}"

    def mac(self, interface: int) -> str:
        """The MAC address of eth<interface>: the same after every boot."""
        return f"02:99:{interface:02x}:00:00:{self.index:02x}"

    @property
    def dir(self) -> Path:
        return self.layout.dir / self.name

    @property
    def run(self) -> Path:
        """Its /run, as seen from the machine."""
        return self.dir / "run"

    @property
    def disk(self) -> Path:
        """What survives its reboot."""
        return self.layout.data / self.name

    @property
    def docker_socket(self) -> Path:
        return self.run / "docker.sock"

    @property
    def plugin_socket(self) -> Path:
        return self.run / "docker/plugins/qnet.sock"

    @property
    def volume_socket(self) -> Path:
        return self.run / "docker/plugins/sharedfs.sock"


@dataclass(frozen=True, slots=True)
class Shape:
    """What was asked of `up`; two labs of the same shape are interchangeable."""

    hosts: int = 3
    etcd: int = 1
    engine: str = "debian12"
    plugin: bool = True
    plugin_command: tuple[str, ...] = ()
    settings: str = ""
    storage: bool = False
    placement: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.hosts <= 99:
            raise LabError(f"a lab has 1 to 99 hosts, not {self.hosts}")
        if not 1 <= self.etcd <= self.hosts:
            raise LabError(f"{self.etcd} members of etcd need as many hosts, there are {self.hosts}")
        if self.engine not in ENGINES:
            raise LabError(f"no engine {self.engine!r}: there are {', '.join(ENGINES)}")

    def __str__(self) -> str:
        plugin = "" if self.plugin else ", no plugin"
        storage = ", storage" if self.storage else ""
        placement = ", placement" if self.placement else ""
        return f"{self.hosts} hosts, {self.etcd} etcd, engine {self.engine}{plugin}{storage}{placement}"


@dataclass(frozen=True, slots=True)
class State:
    """What state.json says; `complete` is false while `up` is at work or after it has crashed."""

    shape: Shape
    complete: bool

    def save(self, layout: Layout) -> None:
        """Replaces the file in one step."""
        layout.dir.mkdir(parents=True, exist_ok=True)
        fresh = layout.state_file.with_suffix(".new")
        fresh.write_text(json.dumps({"shape": asdict(self.shape), "complete": self.complete}, indent=2) + "\n")
        fresh.rename(layout.state_file)

    @classmethod
    def load(cls, layout: Layout) -> State | None:
        """The saved state, or None if there is none that can be read."""
        try:
            raw = json.loads(layout.state_file.read_text())
            shape = raw["shape"]
            shape["plugin_command"] = tuple(shape["plugin_command"])
            return cls(Shape(**shape), bool(raw["complete"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
