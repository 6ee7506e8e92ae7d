"""What an option says of itself where it is declared, and how its values are checked and written. Knows no option."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import msgspec

BARE = re.compile(r"[A-Za-z0-9_-]+")
SHOWN = 100  # characters of a wrong value

Keys: TypeAlias = tuple[str, ...]


def says(
    meaning: str,
    least: float | None = None,
    most: float | None = None,
    *,
    unit: str = "",
    form: str = "",
    check: Callable[[Any], object] | None = None,
    live: bool = False,
) -> msgspec.Meta:
    """The description of an option, within `Annotated`.

    Args:
        form: what its values look like, in the plural, if its type does not tell.
        check: raises ValueError for values that its type cannot tell from right ones.
        live: daemons take it over without a restart.
    """
    extra = {"unit": unit, "form": form, "check": check, "live": live}
    return msgspec.Meta(
        description=meaning, ge=least, le=most, extra={name: said for name, said in extra.items() if said}
    )


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `default` is a value of `type`, `told` what its declaration says besides `meaning`."""

    section: str
    name: str
    type: Any
    default: Any
    meaning: str
    told: Mapping[str, Any]

    @property
    def path(self) -> str:
        """`etcd.timeout`."""
        return f"{self.section}.{self.name}"

    @property
    def unit(self) -> str:
        """`seconds`; empty: it has none."""
        return str(self.told.get("unit", ""))

    @property
    def allowed(self) -> str:
        """Its values in words."""
        return _form(self.type)

    @property
    def live(self) -> bool:
        """Whether daemons take it over without a restart."""
        return bool(self.told.get("live"))

    def mistakes(self, value: object) -> Iterator[tuple[Keys, str]]:
        """What is wrong with a value: of which option, or entry of its table, and why."""
        parts: Iterable[tuple[Keys, object, object]] = [((), value, value)]
        if isinstance(value, dict) and get_origin(get_args(self.type)[0]) is dict:
            parts = [((key,), entry, {key: entry}) for key, entry in value.items()]
        for entry, shown, part in parts:
            why, path = "", (self.section, self.name, *entry)
            try:
                self._check(part)
            except msgspec.ValidationError:
                pass
            except ValueError as error:
                why = f"{error}: "
            else:
                continue
            yield path, f"{'.'.join(path)} is {toml(shown)[:SHOWN]}: {why}allowed are {self.allowed}"

    def _check(self, value: object) -> None:
        converted = msgspec.convert(value, self.type)
        if check := self.told.get("check"):
            check(converted)


def options_of(sections: Mapping[str, type[msgspec.Struct]]) -> tuple[Option, ...]:
    """Every option of these sections, as declared."""
    found = []
    for section, declared in sections.items():
        defaults, hints = declared(), get_type_hints(declared, include_extras=True)
        for name in declared.__struct_fields__:
            told: dict[str, Any] = {}
            for meta in hints[name].__metadata__:
                told |= meta.extra or {}
            meaning = hints[name].__metadata__[-1].description
            found.append(Option(section, name, hints[name], getattr(defaults, name), meaning, told))
    return tuple(found)


def toml(value: object) -> str:
    """A value as it is written in a settings file, on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {toml(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False, default=str)


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _form(kind: Any) -> str:
    """The values of a type in words, in the plural."""
    told: dict[str, Any] = {}
    while get_origin(kind) is Annotated:
        kind, *metas = get_args(kind)
        for meta in metas:
            limits = {"least": meta.ge, "most": meta.le, "length": meta.min_length}
            told |= {name: limit for name, limit in limits.items() if limit is not None} | (meta.extra or {})
    if "form" in told:
        return str(told["form"])
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(inner)
    if origin is tuple:
        return f"lists of {_form(inner[0])}{', at least one' if told.get('length') else ''}"
    if origin is dict:
        return f"tables of {'NAME' if inner[0] is str else _form(inner[0])} = {_form(inner[1])}"
    if kind in (int, float):
        return f"{'whole numbers from ' if kind is int else ''}{told['least']} to {told['most']}"
    return "texts"
