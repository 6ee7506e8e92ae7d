"""`qnet run`, `qnet ps`, `qnet rm`: containers on whichever host suits them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from plugins.cli.output import json_option, show_json, show_table
from plugins.cli.session import Session, pass_session
from plugins.volume.model import parse_bytes
from qnet import log
from qnet.errors import InvalidRequest, QnetError
from qnet.tenants import DEFAULT

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
LABELS = {
    "constraints": "qnet.constraint",
    "affinities": "qnet.affinity",
    "spread": "qnet.spread",
    "group": "qnet.group",
}
RESTARTS = ("no", "always", "on-failure", "unless-stopped")


def container_options(command: CommandT) -> CommandT:
    """Give a command what `docker run` has for a container, as far as it is about a fleet."""
    several = {"multiple": True}
    options: Sequence[tuple[tuple[str, ...], dict[str, Any]]] = (
        (("--env", "-e"), {**several, "metavar": "NAME=VALUE", "help": "A variable; without a value, yours."}),
        (("--label", "-l", "labels"), {**several, "metavar": "NAME=VALUE", "help": "A label."}),
        (("--volume", "-v", "volumes"), {**several, "metavar": "VOLUME:PATH[:ro]", "help": "A volume."}),
        (("--publish", "-p", "ports"), {**several, "metavar": "[IP:][PORT:]PORT[/udp]", "help": "A port of the host."}),
        (("--cpus",), {"type": click.FloatRange(0), "default": 0, "help": "CPUs that it may use, and that are kept."}),
        (("--memory", "-m"), {"default": "", "metavar": "SIZE", "help": "Memory that it may use, and that is kept."}),
        (
            ("--pids-limit", "pids"),
            {"type": int, "default": 0, "metavar": "N", "help": "Processes that it may have; 0: any."},
        ),
        (("--restart",), {"default": "no", "metavar": "POLICY", "help": f"{', '.join(RESTARTS)}; on-failure:TIMES."}),
        (("--entrypoint",), {"default": "", "help": "Instead of the image's."}),
        (("--workdir", "-w"), {"default": "", "help": "Where it starts."}),
        (("--user", "-u"), {"default": "", "help": "As whom it runs."}),
        (("--hostname", "-h"), {"default": "", "help": "What it calls itself."}),
        (("--init",), {"is_flag": True, "help": "With an init process."}),
        (("--read-only",), {"is_flag": True, "help": "Its root file system cannot be written."}),
        (("--rm", "remove"), {"is_flag": True, "help": "Remove it when it ends."}),
    )
    for words, attributes in reversed(options):
        command = click.option(*words, **attributes)(command)
    return command


def placement_options(command: CommandT) -> CommandT:
    """Give a command what says where a container goes."""
    options = (
        click.option("--name", default="", help="Unique in the cluster; of several, each gets a number behind it."),
        click.option(
            "--network",
            "networks",
            multiple=True,
            metavar="NAME",
            help="A network that it joins; can be given several times.",
        ),
        click.option(
            "--ip", default="auto", metavar="ADDRESS|auto|none", help="Its address; auto: any, kept for the name."
        ),
        click.option(
            "--constraint",
            "constraints",
            multiple=True,
            metavar="RULE",
            help="What hosts must have, as rack==r1 or disk!=~hdd.",
        ),
        click.option(
            "--affinity",
            "affinities",
            multiple=True,
            metavar="RULE",
            help="What it runs beside or apart from, as container!=web-*.",
        ),
        click.option(
            "--spread",
            default="",
            metavar="LABEL,…",
            help="Labels whose values instances are spread over, as rack, or rack:max_per=2.",
        ),
        click.option("--group", default="", help="What it is spread with; otherwise the other instances."),
        click.option("--instances", type=click.IntRange(1, 1000), default=1, metavar="N", help="How many containers."),
        click.option("--platform", default="", help="Of the image, as linux/arm64."),
        click.option(
            "--pull",
            type=click.Choice(["missing", "always", "never"]),
            default="missing",
            help="When to pull the image.",
        ),
        click.option("--tenant", default="", help=f"Whose it is (default: {DEFAULT}, or your certificate's)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@placement_options
@container_options
@click.option("--detach", "-d", is_flag=True, help="What it does anyway: to attach, use docker.")
@click.option("--dry-run", is_flag=True, help="Only say where it would go.")
@click.option("--explain", is_flag=True, help="With --dry-run: every host, and why.")
@json_option
@pass_session
def run(session: Session, /, as_json: bool, dry_run: bool, explain: bool, detach: bool, **options: Any) -> None:
    """Run containers on hosts that suit them. Prints names, hosts and addresses."""
    if explain and not dry_run:
        raise click.UsageError("--explain goes with --dry-run.")
    asked = request(options, os.environ)
    if dry_run:
        _explain(session.api().call("POST", "/v1/placements", asked), explain, as_json)
        return
    found = session.api().call("POST", "/v1/runs", {**asked, "auth": credentials(options["image"])})["containers"]
    if as_json:
        show_json(found)
    else:
        for one in found:
            if not one.get("error"):
                addresses = " ".join(text for texts in one.get("addresses", {}).values() for text in texts)
                click.echo(" ".join(filter(None, (one["name"], one["host"], addresses))))
    failed = [one for one in found if one.get("error")]
    if failed:
        reasons = sorted({one["error"] for one in failed})
        why = "; ".join(reasons[:3])
        raise QnetError(f"{len(failed)} of {len(found)} do not run: {why} (request {log.current()})")


@click.command()
@click.option("--all", "-a", "every", is_flag=True, help="Those that do not run too.")
@click.option("--host", default="", help="Only this host's.")
@click.option("--tenant", default="", help="Only this tenant's.")
@click.option("--quiet", "-q", is_flag=True, help="Only names.")
@json_option
@pass_session
def ps(session: Session, every: bool, host: str, tenant: str, quiet: bool, as_json: bool) -> None:
    """List the containers of all hosts."""
    found = session.api().call("GET", "/v1/containers", all="1" if every else "", host=host, tenant=tenant)
    if as_json:
        show_json(found)
    elif quiet:
        for one in found:
            click.echo(one["name"])
    else:
        columns = ("NAME", "HOST", "IMAGE", "STATE", "ADDRESSES", "TENANT", "SINCE")
        show_table(columns, map(_row, found))


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--force", "-f", is_flag=True, help="Remove it even if it runs.")
@click.option("--volumes", "-v", is_flag=True, help="Remove its anonymous volumes too.")
@pass_session
def rm(session: Session, names: Sequence[str], force: bool, volumes: bool) -> None:
    """Remove containers, by name or id. The address of a named one is held for the next of its name."""
    errors = []
    flags = {"force": "1" if force else "", "volumes": "1" if volumes else ""}
    for name in names:
        try:
            click.echo(session.api().call("DELETE", f"/v1/containers/{name}", **flags)["name"])
        except QnetError as error:
            errors.append(str(error))
    if errors:
        raise QnetError("; ".join(errors))


def request(options: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The body of `POST /v1/runs`. Raises InvalidRequest."""
    networks = [{"name": name} for name in options["networks"]]
    if networks:
        networks[0]["address"] = options["ip"]
    elif options["ip"] not in ("auto", "none"):
        raise InvalidRequest(f"--ip {options['ip']} without --network")
    names = ("name", "tenant", "platform", "instances", "pull")
    return {**{name: options[name] for name in names}, "networks": networks, "container": body(options, environment)}


def body(options: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """What makes the container, in Docker's API. Raises InvalidRequest."""
    labels = dict(_pair(text) for text in options["labels"])
    for option, label in LABELS.items():
        given = options[option]
        text = given if isinstance(given, str) else ",".join(given)
        if text:
            labels[label] = ",".join(filter(None, (labels.get(label, ""), text)))
    policy, _, times = options["restart"].partition(":")
    if policy not in RESTARTS or (times and not times.isdigit()):
        raise InvalidRequest(f"--restart {options['restart']}: {', '.join(RESTARTS)}; on-failure may have :TIMES")
    limits = {
        "NanoCpus": int(options["cpus"] * 10**9),
        "Memory": parse_bytes(options["memory"], "--memory") if options["memory"] else 0,
        "PidsLimit": options["pids"] or None,
        "Binds": list(options["volumes"]),
        "PortBindings": _ports(options["ports"]),
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(times or 0)},
        "Init": options["init"] or None,
        "ReadonlyRootfs": options["read_only"],
        "AutoRemove": options["remove"],
    }
    return {
        "Image": options["image"],
        "Cmd": list(options["command"]) or None,
        "Entrypoint": [options["entrypoint"]] if options["entrypoint"] else None,
        "Env": [_variable(text, environment) for text in options["env"]],
        "Labels": labels,
        "WorkingDir": options["workdir"],
        "User": options["user"],
        "Hostname": options["hostname"],
        "ExposedPorts": {inside: {} for inside in limits["PortBindings"]},
        "HostConfig": {name: value for name, value in limits.items() if value is not None},
    }


def credentials(image: str) -> str:
    """Those that `docker login` has kept for the image's registry, for the host that has to pull it."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    if not (folder / "config.json").exists():
        return ""
    import docker

    registry, _ = docker.auth.resolve_repository_name(image)
    known = docker.auth.load_config(str(folder / "config.json")).resolve_authconfig(registry)
    return docker.auth.encode_header(known).decode() if known else ""


def _ports(texts: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    if not texts:
        return {}
    from docker.utils.ports import split_port

    found: dict[str, list[dict[str, str]]] = {}
    for text in texts:
        protocol = text.partition("/")[2] or "tcp"
        try:
            inside, outside = split_port(text)
        except ValueError as error:
            raise InvalidRequest(f"--publish {text}: {error}") from error
        for number, port in enumerate(inside):
            place = outside[number] if outside else None
            address, host = place if isinstance(place, tuple) else ("", place)
            found.setdefault(f"{port.partition('/')[0]}/{protocol}", []).append(
                {"HostIp": address or "", "HostPort": str(host or "").partition("/")[0]}
            )
    return found


def _variable(text: str, environment: Mapping[str, str]) -> str:
    if "=" in text or text.startswith(("constraint:", "affinity:")):
        return text
    return f"{text}={environment[text]}" if text in environment else text


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise InvalidRequest(f"--label {text!r}: NAME=VALUE")
    return name, value


def _explain(found: Mapping[str, Any], every: bool, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    verdicts = found["verdicts"]
    if every:
        show_table(("HOST", "SCORE", "WHY"), map(_verdict, verdicts))
    if found["host"]:
        click.echo(f"it would go to {found['host']}" if len(_suiting(verdicts)) == 1 else _some(_suiting(verdicts)))
        return
    raise QnetError("no host can take it" if every else "no host can take it; why: --explain")


def _suiting(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [one["host"] for one in verdicts if one["suits"]]


def _some(hosts: Sequence[str], most: int = 8) -> str:
    more = f" and {len(hosts) - most} more" if len(hosts) > most else ""
    return f"it would go to one of {', '.join(hosts[:most])}{more}; the first is the best now"


def _verdict(one: Mapping[str, Any]) -> tuple[str, ...]:
    if not one["suits"]:
        return one["host"], "-", "; ".join(one["reasons"])
    scores = (f"{what} {weight * value:.1f}" for what, weight, value in one["scores"] if weight)
    return one["host"], f"{one['score']:.1f}", ", ".join(scores)


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    addresses = ", ".join(text for texts in one["addresses"].values() for text in texts)
    state = f"{one['state']} ({one['exit']})" if one["state"] == "exited" else one["state"]
    return one["name"], one["host"], one["image"], state, addresses, one["tenant"], one["since"][:19]
