"""Reads values of options from a settings file and the environment, and tells every mistake with its place."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from qnet.errors import InvalidRequest
from qnet.options import Keys, Option, toml

KEY = r"[\w-]+|\"[^\"\n]*\"|'[^'\n]*'"
KEYS = rf"(?:{KEY})(?:\s*\.\s*(?:{KEY}))*"
HEADER = re.compile(rf"\s*\[\s*({KEYS})\s*\]")
ASSIGNED = re.compile(rf"\s*({KEYS})\s*=")


class Reading:
    """What was given.

    `tree`: values by section and option. `sources`: where an option's was, by `etcd.timeout`: `FILE line N` or a
    variable; those that are left out have their default. `mistakes`: one line each.
    """

    def __init__(self, options: Iterable[Option]) -> None:
        self.tree: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, str] = {}
        self.mistakes: list[str] = []
        self._options: dict[str, dict[str, Option]] = {}
        for option in options:
            self._options.setdefault(option.section, {})[option.name] = option

    def take_file(self, file: Path) -> None:
        """Take in a file. Raises InvalidRequest: it cannot be read, or is not TOML."""
        try:
            text = file.read_text()
            tree = tomllib.loads(text)
        except OSError as error:
            raise InvalidRequest(f"settings file {file} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"settings file {file} is not TOML: {error}") from error
        lines = lines_of(text)

        def place(keys: Keys) -> str:
            known = (lines[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in lines)
            return f"{file} line {next(known, 1)}"

        for section, values in tree.items():
            if section not in self._options:
                self._wrong(place((section,)), _unknown(section, "section", self._options))
            elif not isinstance(values, dict):
                self._wrong(place((section,)), f"{section} is {toml(values)}: allowed are sections, as in [{section}]")
            else:
                for name, value in values.items():
                    self.take(section, name, value, place)

    def take_environment(self, environment: Mapping[str, str], prefix: str, others: tuple[str, ...]) -> None:
        """Take in all variables that begin with `prefix`, without those that begin with one of `others`."""
        for variable, text in environment.items():
            if variable.startswith(prefix) and not variable.startswith(others):
                section, _, name = variable.removeprefix(prefix).lower().partition("_")
                if section in self._options:
                    self.take(section, name, _value(text), lambda _, variable=variable: variable)  # type: ignore[misc]
                else:
                    self._wrong(variable, _unknown(section, "section", self._options))

    def take(self, section: str, name: str, value: object, place: Callable[[Keys], str]) -> None:
        """Take in an option of a section that there is; `place` tells where it was, or an entry of its table."""
        option, where = self._options[section].get(name), place((section, name))
        if option is None:
            self._wrong(where, f"{section}.{_unknown(name, 'option', self._options[section])}")
            return
        for keys, mistake in option.mistakes(value):
            self._wrong(place(keys), mistake)
        self.tree.setdefault(section, {})[name] = value
        self.sources[option.path] = where

    def _wrong(self, place: str, mistake: str) -> None:
        self.mistakes.append(f"{place}: {mistake}")


def lines_of(text: str) -> Mapping[Keys, int]:
    """The line on which each section, option and entry of a table begins. TOML's parsers do not tell."""
    found: dict[Keys, int] = {}
    section: Keys = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := HEADER.match(line):
            path = section = _keys(header[1])
        elif assigned := ASSIGNED.match(line):
            path = (*section, *_keys(assigned[1]))
        else:
            continue
        for length in range(1, len(path) + 1):
            found.setdefault(path[:length], number)
    return found


def _keys(text: str) -> Keys:
    return tuple(key.strip("\"'") for key in re.findall(KEY, text))


def _unknown(name: str, kind: str, known: Iterable[str]) -> str:
    """Names what there is, those first that may have been meant."""
    names = list(known)
    close = difflib.get_close_matches(name, names)
    return f"{name}: no such {kind}; there are: {', '.join([*close, *(each for each in names if each not in close)])}"


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
