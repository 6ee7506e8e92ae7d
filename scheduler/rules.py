"""The rules that come with a run request, as labels or in classic Swarm's words, and what they match.

    qnet.constraint=rack==r1,disk!=hdd      labels of hosts, and `host` for its name
    qnet.affinity=container!=web-*,image==redis,tier==~front
    qnet.spread=rack:max_per=2,switch       evenly over the values of a label; max_per: never more than that at one

A pattern is text, a glob (`r*`) or, between slashes, a regular expression for the whole, in RE2's words: no pattern
that a tenant thinks of takes more than linear time. `==~` and `!=~` say what is preferred; `==` and `!=` what must be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
import re2

from qnet.errors import InvalidRequest

CONSTRAINT, AFFINITY, SPREAD, GROUP = "qnet.constraint", "qnet.affinity", "qnet.spread", "qnet.group"
HOST = "host"
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
EXPRESSION = re.compile(r"([A-Za-z0-9][A-Za-z0-9._/-]{0,127})(==|!=)(~?)(.+)", re.DOTALL)
SPREADING = re.compile(r"([A-Za-z0-9][A-Za-z0-9._/-]{0,127})(?::max_per=([0-9]{1,6}))?")
COMMAS = re2.compile(r"((?:/(?:\\.|[^/\\])*/|[^,])+)")  # what stands between commas, but for those within slashes
MOST = 64  # rules of a kind
LONGEST = 1024  # characters of one
GLOB = {"*": ".*", "?": "."}

RuleT = TypeVar("RuleT")


class Pattern(msgspec.Struct, frozen=True):
    """What a value is compared with."""

    text: str

    def matches(self, value: str) -> bool:
        """Whether the whole value is what this says."""
        found = _compiled(self.text)
        return value == self.text if found is None else found.fullmatch(value) is not None

    @property
    def exact(self) -> bool:
        """Whether it matches its own text only."""
        return _compiled(self.text) is None


class _Rule(msgspec.Struct, frozen=True):
    subject: str
    wanted: bool
    pattern: Pattern
    hard: bool = True

    def __str__(self) -> str:
        return f"{self.subject}{'==' if self.wanted else '!='}{'' if self.hard else '~'}{self.pattern.text}"


class Constraint(_Rule, frozen=True):
    """What a label of the host, or its name, must be or not be."""

    def holds(self, name: str, labels: Mapping[str, str]) -> bool:
        """For a host of that name, with those labels. A label that is not there is none of the values."""
        value = name if self.subject == HOST and HOST not in labels else labels.get(self.subject)
        return (value is not None and self.pattern.matches(value)) is self.wanted


class Affinity(_Rule, frozen=True):
    """With which containers one wants to be on a host, or not."""


class Spread(msgspec.Struct, frozen=True):
    """Evenly over the values of a host's label; `most` of a group at one value, 0: as it comes."""

    label: str
    most: int = 0

    def value(self, name: str, labels: Mapping[str, str]) -> str:
        """Where a host of that name stands."""
        return name if self.label == HOST and HOST not in labels else labels.get(self.label, "")


class Rules(msgspec.Struct, frozen=True):
    """All that a request says of where it wants to be."""

    constraints: tuple[Constraint, ...] = ()
    affinities: tuple[Affinity, ...] = ()
    spreads: tuple[Spread, ...] = ()


def parse(labels: Mapping[str, str], environment: Iterable[str] = ()) -> Rules:
    """The rules in a container's labels and in `-e constraint:…`, `-e affinity:…`.

    Raises:
        InvalidRequest: naming the rule and what is allowed.
    """
    constraints, affinities = [_items(labels.get(name, ""), name) for name in (CONSTRAINT, AFFINITY)]
    for line in environment:
        for word, into in (("constraint:", constraints), ("affinity:", affinities)):
            if line.startswith(word):
                into.append(line.removeprefix(word))
    return Rules(
        tuple(_rule(text, Constraint, CONSTRAINT) for text in constraints),
        tuple(_rule(text, Affinity, AFFINITY) for text in affinities),
        tuple(map(_spread, _items(labels.get(SPREAD, ""), SPREAD))),
    )


def is_rule(line: str) -> bool:
    """Whether a line of a container's environment is a rule, and none of its variables."""
    return line.startswith(("constraint:", "affinity:"))


def _items(text: str, name: str) -> list[str]:
    found = [item.strip() for item in COMMAS.findall(text) if item.strip()]
    if len(found) > MOST or any(len(item) > LONGEST for item in found):
        raise InvalidRequest(f"{name}: up to {MOST} rules of up to {LONGEST} characters")
    return found


def _rule(text: str, kind: type[RuleT], name: str) -> RuleT:
    found = EXPRESSION.fullmatch(text)
    if found is None or len(text) > LONGEST:
        raise InvalidRequest(
            f"{name}={text[:64]!r} is no rule: NAME==VALUE or NAME!=VALUE, with ~ before VALUE for what is only "
            f"preferred; VALUE may be a glob, or a regular expression between slashes"
        )
    subject, operator, soft, pattern = found.groups()
    try:
        _compiled(pattern)
    except re2.error as error:
        raise InvalidRequest(f"{name}={text[:64]!r} is no regular expression: {_said(error)}") from error
    return kind(subject, operator == "==", Pattern(pattern), not soft)  # type: ignore[call-arg]


def _spread(text: str) -> Spread:
    found = SPREADING.fullmatch(text)
    if found is None or found[2] == "0":
        raise InvalidRequest(f"{SPREAD}={text[:64]!r}: LABEL or LABEL:max_per=NUMBER, such as rack:max_per=2")
    return Spread(found[1], int(found[2] or 0))


@lru_cache(4096)
def _compiled(text: str) -> Any:
    """None: it is compared as it is. Raises re2.error."""
    if len(text) > 2 and text.startswith("/") and text.endswith("/"):
        return re2.compile(text[1:-1], QUIET)
    if not any(sign in text for sign in "*?"):
        return None
    return re2.compile("".join(GLOB.get(sign) or re2.escape(sign) for sign in text), QUIET)


def _said(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def _quiet() -> Any:
    options = re2.Options()
    options.log_errors = False
    options.dot_nl = True
    return options


QUIET = _quiet()
