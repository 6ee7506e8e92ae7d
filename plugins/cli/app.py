"""The group that all commands belong to. A command's module is imported when it is called, so that each starts fast."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from plugins.cli.output import printable
from plugins.cli.session import Session
from qnet.errors import QnetError
from qnet.settings import DEFAULT_FILE

COMMANDS = {
    "run": "plugins.cli.runs:run",
    "ps": "plugins.cli.runs:ps",
    "rm": "plugins.cli.runs:rm",
    "image": "plugins.cli.images:image",
    "pool": "plugins.cli.pools:pool",
    "address": "plugins.cli.addresses:address",
    "network": "plugins.cli.networks:network",
    "endpoint": "plugins.cli.endpoints:endpoint",
    "volume": "plugins.cli.volumes:volume",
    "tenant": "plugins.cli.tenants:tenant",
    "top": "plugins.cli.top:top",
    "host": "plugins.cli.hosts:host",
    "config": "plugins.cli.config:config",
    "init": "plugins.cli.cluster:init",
    "invite": "plugins.cli.cluster:invite",
    "join": "plugins.cli.cluster:join",
    "cert": "plugins.cli.certs:cert",
    "backup": "plugins.cli.backups:backup",
    "restore": "plugins.cli.backups:restore",
    "doctor": "plugins.cli.doctor:doctor",
    "support-dump": "plugins.cli.dump:support_dump",
    "completion": "plugins.cli.completion:completion",
}
INTERRUPTED = 130


class Commands(click.Group):
    """Finds the commands by name and turns qnet's errors into a line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        module, _, attribute = COMMANDS.get(cmd_name, "").partition(":")
        if not module:
            return None
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except QnetError as error:
            click.echo(printable(f"qnet: {error}"), err=True)
            ctx.exit(1)
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"Settings file (default: {DEFAULT_FILE}, if it exists).",
)
@click.option("--verbose", "-v", is_flag=True, help="Say what is asked of whom, under which id it is in their logs.")
@click.version_option(package_name="qnet", prog_name="qnet", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, config: Path | None, verbose: bool) -> None:
    """Containers, hosts, networks, addresses, volumes and tenants of a qnet cluster.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
    """
    ctx.ensure_object(Session).file = config
    if verbose:
        from qnet import log

        log.setup("info")


def _leave(_signal: int, _frame: object) -> None:
    # KeyboardInterrupt is lost when it comes up inside one of gRPC's callbacks; every write is one transaction
    os._exit(INTERRUPTED)


def main() -> None:
    """Entry point of `qnet`."""
    signal.signal(signal.SIGINT, _leave)
    try:
        cli(prog_name="qnet")
    except SystemExit as end:
        if threading.active_count() == 1:
            raise
        # a check of doctor's that was left behind, or what it waits for, must not hold up the end
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else bool(end.code))
