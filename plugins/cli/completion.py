"""`qnet completion`: the script that makes a shell complete `qnet`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a completion script.

    \b
    bash: qnet completion bash > /etc/bash_completion.d/qnet
    zsh:  qnet completion zsh > "${fpath[1]}/_qnet"
    fish: qnet completion fish > ~/.config/fish/completions/qnet.fish
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.ClickException(f"click completes no {shell}")
    click.echo(made(ctx.find_root().command, {}, "qnet", "_QNET_COMPLETE").source())
