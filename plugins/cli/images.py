"""`qnet image`: images on the hosts, before they are needed."""

from __future__ import annotations

import json

import click

from plugins.cli.output import json_option, printable
from plugins.cli.runs import credentials
from plugins.cli.session import Session, pass_session
from qnet.errors import QnetError


@click.group()
def image() -> None:
    """Images on the hosts."""


@image.command("pull")
@click.argument("image")
@click.option("--on", default="", metavar="RULE,…", help="Hosts that match, as rack==r1; without it, all.")
@click.option("--platform", default="", help="As linux/arm64.")
@click.option("--quiet", "-q", is_flag=True, help="Only what became of it.")
@json_option
@pass_session
def pull(session: Session, image: str, on: str, platform: str, quiet: bool, as_json: bool) -> None:
    """Have hosts pull an image. With the credentials of `docker login`; prints what they tell."""
    asked = {"image": image, "on": on, "platform": platform, "auth": credentials(image)}
    failed = done = 0
    for part in session.api().lines("POST", "/v1/images/pull", asked):
        failed, done = failed + bool(part.get("error")), done + bool(part.get("done"))
        if as_json:
            click.echo(json.dumps(part))
        elif not quiet or part.get("done") or part.get("error"):
            click.echo(printable(f"{part['host']}: {part.get('error') or part.get('status', '')}"))
    if failed:
        raise QnetError(f"{failed} of {failed + done} hosts could not pull {image}")
