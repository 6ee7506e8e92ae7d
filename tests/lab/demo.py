"""The demo: three Docker hosts, one qnet network, containers that reach each other over all of them, a volume that
they share, containers that are placed on whichever host suits, and the docker command for all of them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from tests.lab.cluster import Lab, on_all
from tests.lab.commands import run
from tests.lab.engine import client, client_env
from tests.lab.host import Host
from tests.lab.model import LabError, Layout, Shape

NETWORK = "web"
SUBNET = "10.77.0.0/24"
CREATE = (
    *("network", "create", "-d", "qnet", "--ipam-driver", "qnet", "--subnet", SUBNET),
    *("--gateway", "10.77.0.1", "-o", "parent=eth1", NETWORK),
)
PLACES = (("web-1", "host1"), ("web-2", "host2"), ("web-3", "host3"), ("web-4", "host1"))
FIXED = "10.77.0.50"
VOLUME, SIZE = "data", "100M"
CREATE_VOLUME = ("volume", "create", "-d", "sharedfs", "-o", f"size={SIZE}", VOLUME)
LAB, QNET = ".venv/bin/python -m tests.lab", ".venv/bin/qnet"
FRONT = Layout.find(None).dir / "host1/run/qnet/docker.sock"
GROUP, SLEEP = "spread", ("busybox", "sleep", "1d")

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Container:
    """One container of the demo."""

    name: str
    host: Host
    address: str


def say(text: str) -> None:
    """One step of the demo."""
    console.print(f"[bold cyan]>[/] {text}")


def lab_up() -> Lab:
    """The demo's lab: the one that is up, if it will do."""
    shape = Shape(hosts=3, storage=True, placement=True)
    running = Lab.running()
    if running and running.shape != shape:
        raise LabError(f"another lab is up ({running.shape}): `make demo-down` removes it")
    if running:
        say("the lab is up already")
        for host in running.hosts:
            if host.status().state != "up":
                raise LabError(f"{host.name} is {host.status().state}: `make demo-down`, then `make demo`")
        return running
    say("three Docker hosts, each in namespaces of its own, with etcd, GlusterFS and placement")
    began = time.monotonic()
    lab = Lab.of_shape(shape)
    say(f"up after {time.monotonic() - began:.1f} s, with Docker {lab.hosts[0].status().engine_version}")
    return lab


def create_network(host: Host) -> None:
    """Makes the network on one host, unless an earlier demo has."""
    if host.docker("network", "inspect", NETWORK, check=False).returncode != 0:
        host.docker(*CREATE)


def start(host: Host, name: str, *options: str) -> Container:
    """Starts a container of the demo, unless an earlier one has, and looks up its address."""
    if host.docker("container", "inspect", name, check=False).returncode == 0:
        host.docker("start", name)
    else:
        host.docker("run", "-d", "--name", name, "--network", NETWORK, *options, "busybox", "sleep", "infinity")
    inspected = json.loads(host.docker("container", "inspect", name).stdout)[0]
    return Container(name, host, inspected["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])


def show(containers: list[Container]) -> None:
    """The table of who is where."""
    table = Table("container", "host", "address", title=f"network {NETWORK}, pool {SUBNET}", title_justify="left")
    for container in containers:
        table.add_row(container.name, container.host.name, container.address)
    console.print(table)
    addresses = [container.address for container in containers]
    if len(set(addresses)) != len(addresses):
        raise LabError(f"two containers have one address: {', '.join(addresses)}")


def ping_all(containers: list[Container]) -> None:
    """Every container pings every other one."""
    pairs = [(one, other) for one in containers for other in containers if one is not other]
    times = []
    for one, other in pairs:
        done = one.host.docker("exec", one.name, "ping", "-c", "1", "-W", "3", other.address, check=False)
        if done.returncode != 0:
            raise LabError(f"{one.name} on {one.host.name} does not reach {other.name} ({other.address})")
        times += [float(found) for found in re.findall(r"time=([\d.]+) ms", done.stdout)]
    say(f"ping: all {len(pairs)} pairs reach each other (slowest {max(times, default=0):.2f} ms)")


def refuse_duplicate(host: Host, taken: Container) -> None:
    """Asks on another host for an address that is taken."""
    say(f"{host.name} asks for {taken.address}, which {taken.name} on {taken.host.name} holds:")
    argv = ("run", "--rm", "--network", NETWORK, "--ip", taken.address, "busybox", "true")
    console.print(f"  $ docker {' '.join(argv)}", style="dim", markup=False)
    done = host.docker(*argv, check=False)
    if done.returncode == 0:
        raise LabError(f"{host.name} got {taken.address} although {taken.name} holds it")
    message = next((line for line in done.stderr.splitlines() if "rror" in line), done.stderr.strip())
    console.print(f"  {message}", style="yellow", markup=False)
    if taken.address not in message:
        raise LabError(f"refused for another reason than {taken.address} being taken")


def share_volume(hosts: Sequence[Host]) -> None:
    """What one host writes into a volume, another reads; its limit holds."""
    if hosts[0].docker("volume", "inspect", VOLUME, check=False).returncode != 0:
        say(f"on {hosts[0].name}: docker {' '.join(CREATE_VOLUME)}")
        hosts[0].docker(*CREATE_VOLUME)
    words = f"written on {hosts[0].name}"
    mounted = ("run", "--rm", "--network", "none", "-v", f"{VOLUME}:/data", "busybox", "sh", "-c")
    hosts[0].docker(*mounted, f"echo {words} >/data/note")
    said = hosts[1].docker(*mounted, "cat /data/note").stdout.strip()
    if said != words:
        raise LabError(f"{hosts[1].name} reads {said!r} from volume {VOLUME}, not {words!r}")
    say(f"volume {VOLUME}: {hosts[1].name} reads what was {said}")
    done = hosts[2].docker(*mounted, "dd if=/dev/zero of=/data/big bs=1M count=400 2>&1; rm /data/big", check=False)
    refusal = next((line for line in done.stdout.splitlines() if "quota" in line), "")
    if not refusal:
        raise LabError(f"400 MB fit into volume {VOLUME}: {done.stdout}")
    say(f"{hosts[2].name} writes 400 MB into its {SIZE}:")
    console.print(f"  {refusal}", style="yellow", markup=False)


def qnet(lab: Lab, *words: str, check: bool = True) -> str:
    """Shows a command `qnet` on host1 with what it says."""
    console.print(f"  $ qnet {' '.join(words)}", style="dim", markup=False)
    done = lab.hosts[0].exec(QNET, *words, check=check)
    console.print(f"{done.stdout}{done.stderr}".rstrip(), style="yellow" if done.returncode else "", markup=False)
    return done.stdout


def place(lab: Lab) -> None:
    """Containers on hosts that nobody named: one that keeps its address, a group spread over racks, a drained host."""
    say("placement: a host is picked, and an address held for the name")
    nets = ("--network", NETWORK, "--ip", "auto")
    names = lab.hosts[0].exec(QNET, "ps", "--all", "--quiet").stdout.split()
    stale = [name for name in names if name == "a" or name.startswith(f"{GROUP}-")]
    if stale:
        lab.hosts[0].exec(QNET, "rm", "-f", *stale)
    limits = ("--cpus", "0.5", "-m", "64m")
    first = qnet(lab, "run", "-d", *nets, "-v", f"{VOLUME}:/data", "--name", "a", *limits, *SLEEP).split()
    qnet(lab, "rm", "-f", "a")
    second = qnet(lab, "run", "-d", *nets, "--name", "a", *SLEEP).split()
    if first[-1] != second[-1]:
        raise LabError(f"container a had {first[-1]}, and has {second[-1]} now")
    say("where something would go, and why not elsewhere:")
    qnet(lab, "run", "--dry-run", "--explain", "--constraint", "rack==r2", "--cpus", "1", "-m", "1g", "busybox")
    say("six more, spread over racks, while host2 is drained:")
    qnet(lab, "host", "drain", "host2")
    qnet(lab, "run", "--instances", "6", "--name", GROUP, "--spread", "rack", "--network", NETWORK, *SLEEP)
    qnet(lab, "host", "ls")
    qnet(lab, "host", "ready", "host2")
    qnet(lab, "ps")
    say("a refusal says why:")
    qnet(lab, "run", "--constraint", "rack==r9", "busybox", check=False)


def through_the_front(lab: Lab) -> None:
    """The docker command as it is, on the whole fleet."""
    say("the front: any docker client on all hosts, here by export DOCKER_HOST=unix:///run/qnet/docker.sock on host1")
    front(lab, "rm", "-f", "a", "b", quiet=True)
    front(lab, "run", "-d", "--network", NETWORK, "--ip", "auto", "--name", "a", *SLEEP)
    front(lab, "run", "-d", "-e", "constraint:rack==r2", "--label", "qnet.spread=rack", "--name", "b", *SLEEP)
    front(lab, "ps", "--format", 'table {{.Names}}\t{{.Status}}\t{{.Label "qnet.host"}}')
    said = front(lab, "run", "--rm", "--network", NETWORK, "-v", f"{VOLUME}:/data", "busybox", "cat", "/data/note")
    if "written on" not in said:
        raise LabError(f"volume {VOLUME} has {said!r} through the front")
    front(lab, "exec", "a", "ip", "-4", "addr", "show", "eth0")
    front(lab, "info", "--format", "{{range .Labels}}{{println .}}{{end}}")


def front(lab: Lab, *words: str, quiet: bool = False) -> str:
    """Shows a command `docker` for the front of host1 with what it says."""
    if not quiet:
        console.print(f"  $ docker {' '.join(words)}", style="dim", markup=False)
    done = run([client(), "-H", f"unix://{lab.hosts[0].gateway.socket}", *words], check=False, env=client_env())
    if done.returncode and not quiet:
        raise LabError(f"docker {' '.join(words)}: {done.stderr.strip()}")
    if not quiet:
        console.print(done.stdout.rstrip(), markup=False)
    return done.stdout


def what_next() -> None:
    """Commands to copy."""
    console.print("\n[bold]The lab stays up. Try:[/]")
    for comment, command in (
        ("the hosts", f"{LAB} status"),
        ("docker on any host", f"{LAB} docker host2 ps"),
        ("one more container", f"{LAB} docker host3 run --rm -it --network {NETWORK} busybox sh"),
        ("who has which address", f"{LAB} exec host1 .venv/bin/qnet address ls --subnet {SUBNET}"),
        ("the pools", f"{LAB} exec host1 .venv/bin/qnet pool ls"),
        ("a larger volume", f"{LAB} exec host1 .venv/bin/qnet volume resize {VOLUME} 200M"),
        ("who has it, and how its pool is", f"{LAB} docker host1 volume inspect {VOLUME}"),
        (
            "a container anywhere",
            f"{LAB} exec host1 .venv/bin/qnet run --network {NETWORK} --name anywhere busybox sleep 1d",
        ),
        ("all containers of all hosts", f"{LAB} exec host2 .venv/bin/qnet ps"),
        ("docker on all of them", f"docker -H unix://{FRONT} ps"),
        ("is everything in order?", f"{LAB} exec host1 .venv/bin/qnet doctor"),
        ("a power cut and a boot", f"{LAB} kill host3; {LAB} start host3"),
        ("remove every trace", "make demo-down"),
    ):
        console.print(f"  [dim]# {comment}[/]\n  {command}")


@click.group()
def main() -> None:
    """Shows qnet on three Docker hosts on this machine."""


@main.command()
def up() -> None:
    """Bring up the lab, a network and containers on all hosts; show that they reach each other."""
    try:
        lab = lab_up()
        say(f"on every host: docker {' '.join(CREATE)}")
        on_all(create_network, lab.hosts)
        containers = [start(lab.host(host), name) for name, host in PLACES]
        containers.append(start(lab.hosts[1], "web-fixed", "--ip", FIXED))
        show(containers)
        ping_all(containers)
        refuse_duplicate(lab.hosts[2], containers[-1])
        share_volume(lab.hosts)
        place(lab)
        through_the_front(lab)
        what_next()
    except LabError as error:
        raise click.ClickException(f"the demo failed: {error}") from error


@main.command()
def down() -> None:
    """Remove every trace of the demo."""
    try:
        Lab.remove()
    except LabError as error:
        raise click.ClickException(str(error)) from error
    say("the lab is down, nothing is left")


if __name__ == "__main__":
    main(prog_name="python -m tests.lab.demo")
