"""Makes docs/reference from the code: settings, commands, metrics, errors. `make docs` writes the pages."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import import_module
from inspect import cleandoc
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import click
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase

from plugins.cli.app import cli
from qnet import errors, settings
from qnet.errors import QnetError
from qnet.options import toml
from scheduler.gateway.server import status_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/reference"
CODE = ("qnet", "plugins", "scheduler")
DAEMONS = {
    "qnet-network": "plugins.main",
    "sharedfs": "plugins.volume.main",
    "qnet-agent": "scheduler.agent.main",
    "qnet-scheduler": "scheduler.main",
    "qnet-gateway": "scheduler.gateway.main",
}
WIDTH = 100
VARIES = "{…}"
MADE = "<!-- Made by `make docs` from the code: change it there. -->"


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())


def settings_page() -> str:
    """Every option of the settings."""
    told = [_head("Settings: `/etc/qnet/qnet.toml`")]
    live = ", ".join(f"`{option.path}`" for option in settings.options() if option.live)
    told.append(
        "Every option has a default; the file may be empty or missing. In the environment `QNET_SECTION_OPTION` "
        "overrides an option (`QNET_ETCD_TIMEOUT=2`). Unknown sections, options and variables and wrong values are "
        "refused at start, all at once, each with file and line, or variable, and what is allowed. `qnet config` "
        "checks and shows settings ([commands](commands.md)). What needs no restart of the daemons if it changes: "
        f"{live}.\n"
    )
    for section, declared in settings.sections().items():
        told += [f"## `[{section}]`\n", f"{_line(declared.__doc__)}\n"]
        rows = [
            (f"`{option.path}`", f"`{toml(option.default)}`", f"{option.allowed} {option.unit}".strip(), option.meaning)
            for option in settings.options()
            if option.section == section
        ]
        told.append(_table(("option", "default", "allowed", "meaning"), rows))
    return "\n".join(told)


def commands_page() -> str:
    """Every command's `--help`."""
    told = [_head("Commands"), "What `--help` prints. [Examples](../commands.md).\n"]
    for context in contexts():
        text = context.get_help().replace("\b\n", "")
        told.append(f"## `{context.command_path}`\n\n```\n{text}\n```\n")
    for name in DAEMONS:
        told.append(f"## `{name}`\n\n```\n{daemon_help(name).strip()}\n```\n")
    return "\n".join(told)


def metrics_page() -> str:
    """Every metric of every module that has any."""
    told = [_head("Metrics")]
    told.append(
        "Each daemon serves its own at `GET /metrics` on its unix socket (those of placement and the front: to "
        "operators), as in `curl --unix-socket /run/docker/plugins/qnet.sock http://localhost/metrics`, and where "
        "`[metrics]` of the [settings](settings.md) says. [What to look at](../monitoring.md).\n"
    )
    rows = [
        (f"`{name}`", metric.type, ", ".join(f"`{label}`" for label in labels), metric.documentation)
        for name, (metric, labels) in metrics().items()
    ]
    return "\n".join([*told, _table(("metric", "type", "labels", "meaning"), rows)])


def errors_page() -> str:
    """The kinds of errors, and every message that the code raises."""
    kinds = _kinds()
    told = [_head("Errors")]
    told.append(
        "Plugins answer errors with status 500 and a JSON body, `Err` and `Error`, as engines expect; requests that "
        "are not of the protocol get 404, 405 or 413 with the same body. The placement service and the front answer "
        "with the status below, and `message`. Metrics count errors by kind (`qnet_plugin_refusals_total`, "
        "`qnet_scheduler_refusals_total`). [When things fail](../failures.md) says what to do.\n"
    )
    rows = [
        (f"`{name}`", f"`{kind.__bases__[0].__name__}`", _status(kind), _line(kind.__doc__))
        for name, kind in kinds.items()
    ]
    told.append(_table(("kind", "is a", "status", "meaning"), rows))
    told.append(f"What follows is every message, by kind and module; `{VARIES}` is what varies.\n")
    found: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for module, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                for text in (text for each in node.args for text in _texts(each, module)):
                    if any(map(str.isalpha, text.replace(VARIES, ""))):
                        found[node.func.id][module][text] = None
    for name in kinds:
        if name in found:
            told.append(f"## `{name}`\n")
        for module, messages in found.get(name, {}).items():
            told += [f"`{module}`:\n", *(f"- `{text.replace('`', chr(39))}`" for text in messages), ""]
    return "\n".join(told)


PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "metrics.md": metrics_page,
    "errors.md": errors_page,
}


def contexts() -> Iterator[click.Context]:
    """A context of `qnet` and of each command below it, parents first."""

    def below(command: click.Command, name: str, parent: click.Context | None) -> Iterator[click.Context]:
        context = click.Context(command, parent, name, terminal_width=WIDTH, **command.context_settings)
        yield context
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                if found := command.get_command(context, child):
                    yield from below(found, child, context)

    return below(cli, "qnet", None)


def daemon_help(name: str) -> str:
    """What a daemon prints at `--help`."""
    printed = StringIO()
    entry = import_module(DAEMONS[name]).main
    called = patch.object(sys, "argv", [name, "--help"]), patch.dict(os.environ, COLUMNS=str(WIDTH))
    with called[0], called[1], redirect_stdout(printed), suppress(SystemExit):
        entry()
    return printed.getvalue()


def metrics() -> Mapping[str, tuple[Metric, Sequence[str]]]:
    """Metrics with their labels, by name: those of modules, and those that `families()` list."""
    found: dict[str, tuple[Metric, Sequence[str]]] = {}
    for module, tree in _trees():
        imported = (node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
        if any(name.startswith(("prometheus_client", "qnet.metrics")) for name in imported):
            loaded = import_module(module)
            kept = [value for value in vars(loaded).values() if isinstance(value, MetricWrapperBase)]
            listed = list(getattr(loaded, "families", dict)().values())
            for metric, labelled in [(next(iter(one.describe())), one) for one in kept] + [
                (one, one) for one in listed
            ]:
                name = f"{metric.name}_total" if metric.type == "counter" else metric.name
                found[name] = metric, labelled._labelnames
    return found


def _kinds() -> Mapping[str, type[QnetError]]:
    """Every kind of error by its name, those of `qnet.errors` first."""
    for module, _ in _trees():
        import_module(module)

    def below(kind: type[QnetError]) -> Iterator[type[QnetError]]:
        for child in kind.__subclasses__():
            if child.__module__.split(".")[0] in CODE:
                yield child
                yield from below(child)

    def order(kind: type[QnetError]) -> tuple[bool, str, int]:
        return kind.__module__ != errors.__name__, kind.__module__, inspect.getsourcelines(kind)[1]

    return {kind.__name__: kind for kind in sorted(below(QnetError), key=order)}


def _status(kind: type[QnetError]) -> str:
    try:
        return str(status_of(kind("")))
    except TypeError:  # it is made of more than a message, and never answered as it is
        return ""


@cache
def _trees() -> Sequence[tuple[str, ast.Module]]:
    """Names of modules, and their syntax trees."""
    files = [file for package in CODE for file in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [(name, ast.parse(file.read_text())) for name, file in zip(names, files, strict=True)]


def _texts(node: ast.expr, module: str) -> Iterator[str]:
    """The texts that an expression may be, with what varies in them; of a call, what the function returns."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else VARIES for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from (text for each in (node.body, node.orelse) for text in _texts(each, module))
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
        home = getattr(getattr(import_module(module), name, None), "__module__", module)
        yield from (text for each in _returned().get((home, name), ()) for text in _texts(each, home))


@cache
def _returned() -> Mapping[tuple[str, str], Sequence[ast.expr]]:
    """What functions return, by their modules and names."""
    found: dict[tuple[str, str], list[ast.expr]] = defaultdict(list)
    for module, tree in _trees():
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            returns = (node.value for node in ast.walk(function) if isinstance(node, ast.Return))
            found[module, function.name] += [value for value in returns if value]
    return found


def _head(title: str) -> str:
    return f"# {title}\n\n{MADE}\n"


def _line(text: str | None) -> str:
    return " ".join(cleandoc(text or "").split())


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [columns, tuple("---" for _ in columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in cells)


if __name__ == "__main__":
    main()
