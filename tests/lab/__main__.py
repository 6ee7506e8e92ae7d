"""Several real Docker hosts on this one machine: `python -m tests.lab up`, `docker HOST …`, `down`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tests.lab.cluster import Lab
from tests.lab.engine import client_argv, client_env
from tests.lab.fabric import CUTS
from tests.lab.host import Host
from tests.lab.image import NAMES
from tests.lab.model import ENGINES, LabError, Shape

PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


class Group(click.Group):
    """Shows what went wrong in one line and ends with status 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except LabError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--dir", "directory", metavar="DIR", help="Lab directory (QNET_LAB_DIR; default /run/qnet-lab).")
def main(directory: str | None) -> None:
    """Several real Docker hosts on this one machine, each in namespaces of its own. Needs root."""
    if directory:
        os.environ["QNET_LAB_DIR"] = directory


def _host(name: str) -> Host:
    return Lab.open().host(name)


@main.command()
@click.option("--hosts", default=3, show_default=True, help="Number of hosts: host1, host2, …")
@click.option("--etcd", default=1, show_default=True, help="Members of etcd, on the first hosts.")
@click.option("--engine", type=click.Choice(ENGINES), default="debian12", show_default=True)
@click.option("--no-plugin", is_flag=True, help="Leave qnet's plugin out.")
@click.option("--plugin-command", default="", metavar="CMD", help="Start this in place of .venv/bin/qnet-network.")
@click.option("--settings", type=click.File(), help="TOML on top of the hosts' qnet.toml.")
@click.option("--replace", is_flag=True, help="Take down a lab of another shape first.")
def up(hosts: int, etcd: int, engine: str, no_plugin: bool, plugin_command: str, settings: Any, replace: bool) -> None:
    """Bring up a lab; removes what a crashed one has left."""
    text = settings.read() if settings else ""
    shape = Shape(hosts, etcd, engine, not no_plugin, tuple(shlex.split(plugin_command)), text)
    began = time.monotonic()
    if not replace and (running := Lab.running()):
        if running.shape != shape:
            raise LabError(f"another lab is up ({running.shape}): take it `down` first, or use --replace")
        click.echo(f"the lab is up already: {shape}")
        return
    lab = Lab.of_shape(shape, replace=replace)
    click.echo(f"the lab is up after {time.monotonic() - began:.1f} s: {shape}")
    for host in lab.hosts:
        click.echo(f"  {host.name}  {host.address}  {host.docker_socket}")


@main.command()
def down() -> None:
    """Remove every trace of the lab: processes, namespaces, links, mounts, control groups, files."""
    began = time.monotonic()
    Lab.remove()
    click.echo(f"the lab is down after {time.monotonic() - began:.1f} s")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(as_json: bool) -> None:
    """Show every host's address, docker socket, processes and state."""
    lab = Lab.open()
    rows = [asdict(host.status()) for host in lab.hosts]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None)
    columns = (
        "name",
        "state",
        "address",
        "engine_version",
        "engine_pid",
        "plugin_pid",
        "etcd_pid",
        "docker_socket",
    )
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*("-" if row[column] is None else str(row[column]) for column in columns))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@main.command(context_settings={**PASS_ON, "help_option_names": []})
@click.argument("host")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def docker(host: str, args: tuple[str, ...]) -> None:
    """Run the docker command against the engine of HOST."""
    argv = client_argv(_host(host).node, args)
    os.execve(argv[0], argv, client_env())


@main.command("exec", context_settings={**PASS_ON, "help_option_names": []})
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(host: str, command: tuple[str, ...]) -> None:
    """Run a command inside HOST's namespaces, in this directory."""
    sys.stdout.flush()
    argv = _host(host).namespaces.argv(command, str(Path.cwd()))
    os.execvp(argv[0], argv)


def _on_host(name: str, action: Callable[[Host], object], done: str, text: str) -> None:
    """Adds a command that does one thing to one host."""

    @main.command(name, help=text)
    @click.argument("host")
    def command(host: str) -> None:
        action(_host(host))
        click.echo(f"{host} {done}")


_on_host("kill", Host.kill, "is down", "Cut HOST's power: kill -9 everything it runs, links go.")
_on_host("start", Host.start, "is up", "Boot HOST after `kill`: fresh /run and links, same disk.")
_on_host("heal", Host.heal, "is connected", "End HOST's partitions.")


@main.command()
@click.argument("host")
@click.option("--from", "segment", type=click.Choice(list(CUTS)), default="etcd", show_default=True)
def partition(host: str, segment: str) -> None:
    """Cut HOST off without a word: from etcd (its eth0), or from the tenants' trunk (eth1)."""
    _host(host).partition(segment)
    click.echo(f"{host} is cut off from {segment}")


@main.command("restart-plugin")
@click.argument("host")
@click.option("--kill", is_flag=True, help="By kill -9.")
def restart_plugin(host: str, kill: bool) -> None:
    """Restart qnet's plugin on HOST."""
    one = _host(host)
    if kill:
        one.plugin.kill()
    else:
        one.plugin.stop()
    one.start_plugin()
    click.echo(f"plugin of {host} runs: pid {one.plugin.pid}")


@main.command("restart-engine")
@click.argument("host")
@click.option("--kill", is_flag=True, help="By kill -9 of dockerd; its containers stay.")
def restart_engine(host: str, kill: bool) -> None:
    """Restart the Docker engine of HOST."""
    one = _host(host)
    one.stop_engine(kill=kill)
    one.start_engine()
    click.echo(f"engine of {host} runs: pid {one.engine.pid}")


@main.command()
@click.argument("host")
@click.option("-f", "--follow", is_flag=True)
@click.option("-n", "--lines", default=50, show_default=True)
def logs(host: str, follow: bool, lines: int) -> None:
    """Show the logs of HOST's daemons."""
    files = sorted(str(path) for path in _host(host).node.disk.glob("*.log"))
    if not files:
        raise LabError(f"{host} has no logs")
    argv = ["tail", "-v", "-n", str(lines), *(["-F"] if follow else []), *files]
    os.execv(shutil.which("tail") or "tail", argv)


@main.command()
@click.argument("image", type=click.Choice(NAMES))
def load(image: str) -> None:
    """Bring an image into every engine."""
    Lab.open().load(image)
    click.echo(f"{image}:latest is on every host")


if __name__ == "__main__":
    main(prog_name="python -m tests.lab")
