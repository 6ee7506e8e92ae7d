"""Two machines as a fleet, and the guide that made them one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.guides import Step, steps
from tests.lab.commands import Result, run, wait_for
from tests.lab.fabric import Fabric
from tests.lab.image import import_args, tarball
from tests.lab.model import BUILD, PROJECT, LabError, Layout
from tests.lab.namespaces import delete_netns
from tests.package import image
from tests.package.machine import Machine

FRONT = "docker -H unix:///run/qnet/docker.sock"
LEFT_FOR_LATER = ("Remove",)
GUIDED = 180.0  # seconds that a command of the guide may take


def built(place: Path = BUILD) -> Path:
    """Build the Debian package of this clone, below this folder."""
    run([PROJECT / "packaging/deb.sh"], timeout=900, env={**os.environ, "QNET_LAB_BUILD": str(place)})
    (found,) = (place / "dist").glob("*.deb")
    return found


@contextmanager
def booted(layout: Layout) -> Iterator[list[Machine]]:
    """Two machines without qnet, on the network of a lab."""
    root, fabric, made = image.build(), Fabric(layout), list[Machine]()
    layout.dir.mkdir(parents=True, exist_ok=True)
    delete_netns(fabric.netns)
    fabric.create()
    try:
        for number in (1, 2):
            node = layout.node(number)
            node.disk.mkdir(parents=True, exist_ok=True)
            fabric.attach(node)
            made.append(Machine(node, root))
            made[-1].boot()
            shutil.copy(tarball("busybox"), made[-1].files / "root/busybox.tar")
        yield made
    finally:
        for machine in made:
            machine.remove()
            fabric.detach(machine.node)
        delete_netns(fabric.netns)
        shutil.rmtree(layout.dir, ignore_errors=True)
        shutil.rmtree(layout.data, ignore_errors=True)


class Site:
    """See the module. Made once: its machines have gone through the whole guide, but for what removes qnet."""

    def __init__(self, machines: list[Machine], package: Path) -> None:
        self.machines = machines
        self.first, self.second = machines
        self.said: list[tuple[Step, Result]] = []
        self._invitation = ""
        self._loaded = False
        for machine in machines:
            machine.sh("echo kept >/root/kept")
            shutil.copy(package, machine.files / "root" / package.name)
        for step in steps("install.md"):
            if step.host and step.heading not in LEFT_FOR_LATER:
                self.said.append((step, self.type(step)))

    def type(self, step: Step) -> Result:
        """Do what a guide says. Raises LabError: it fails."""
        machine = next(one for one in self.machines if one.name == step.host)
        command = step.command.replace("10.0.0.", "10.99.0.").replace("IMAGE", "busybox sleep 1d")
        command = command.replace(
            "apt install", "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends"
        )
        command = command.replace("apt remove", "DEBIAN_FRONTEND=noninteractive apt-get remove -y")
        if "| qnet join" in command:
            command = self._invitation
        if "docker -H" in command and not self._loaded:
            self._load()
        if command == "qnet host ls":
            self.wait_ready()
        if command == "qnet doctor":
            wait_for(
                "doctor's consent", lambda: machine.sh(command, timeout=GUIDED, check=False).returncode == 0, 60, 2
            )
        done = machine.sh(f"cd /root; {command}", timeout=GUIDED)
        if "peer probe" in command:
            wait_for("all glusterds to know each other", self._peers_met, 60, 0.5)
        if command.startswith(("qnet invite", "qnet cert renew host2")):
            self._invitation = next(line.strip() for line in done.stdout.splitlines() if "| qnet join" in line)
        return done

    def _peers_met(self) -> bool:
        """The probe answers before they have."""
        listed = [one.sh("gluster pool list", check=False).stdout for one in self.machines]
        return all(text.count("Connected") == len(self.machines) for text in listed)

    def _load(self) -> None:
        """The image that containers are made of: no registry is within reach."""
        self.wait_ready()
        for machine in self.machines:
            tar = str(tarball("busybox"))
            machine.docker(*("/root/busybox.tar" if word == tar else word for word in import_args("busybox")))
        self._loaded = True

    def wait_ready(self) -> None:
        """Until both hosts can be placed on."""

        def ready() -> bool:
            told = self.first.sh("qnet host ls", check=False).stdout.splitlines()[1:]
            return len(told) == len(self.machines) and all(" ready " in line for line in told)

        wait_for("both hosts ready", ready, 60, 0.5)

    @contextmanager
    def container(self, machine: Machine, name: str, *words: str) -> Iterator[str]:
        """A container on a machine's own engine, in network web; gives its address."""
        machine.docker("run", "-d", "--network", "web", "--name", name, *words)
        try:
            shown = machine.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)
            yield shown.stdout.strip()
        finally:
            machine.docker("rm", "-fv", name, check=False)


def settle(machine: Machine, unit: str, state: str, within: float = 30) -> None:
    """Wait until systemd says this of a unit. Raises LabError."""
    try:
        wait_for(f"{unit} {state} on {machine.name}", lambda: machine.active(unit) == state, within, 0.2)
    except LabError as error:
        raise LabError(f"{error}\n{machine.journal(unit, 40)}") from None


def rebuilt(package: Path, version: str, folder: Path) -> Path:
    """The same package under another version."""
    run(["dpkg-deb", "-R", package, folder / "tree"], timeout=120)
    control = folder / "tree/DEBIAN/control"
    lines = [
        f"Version: {version}" if line.startswith("Version:") else line for line in control.read_text().splitlines()
    ]
    control.write_text("\n".join(lines) + "\n")
    made = folder / f"qnet_{version}_amd64.deb"
    run(["dpkg-deb", "-Znone", "-b", folder / "tree", made], timeout=120)
    return made
