"""What tenants know of images, and which are theirs: by names and ids that they have brought, or that are for all."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from qnet.errors import QnetError
from scheduler.callers import Caller, Forbidden
from scheduler.feasible import canonical
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.services import HOST_LABEL, Services
from scheduler.gateway.upstream import GONE, Refused
from scheduler.model import Machine

ID = "sha256:"
NONE = "<none>"  # how engines list that there is no name
COMING = ("load", "import", "create")
MOMENT = 0.5  # seconds

Due = Literal["", "before", "after"]


class Rights:
    """See the module."""

    def __init__(self, services: Services) -> None:
        self._s = services

    # -- what a caller knows ---------------------------------------------------------------------------------

    def names(self, caller: Caller, told: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Of an image, as an engine tells of it: the tags and digests that a caller may know."""
        tags = [tag for tag in tags_of(told) if self._s.sees(caller, tag)]
        repos = {tag.rpartition(":")[0] for tag in tags}
        digests = [one for one in told.get("RepoDigests") or () if NONE not in one]
        return tags, [one for one in digests if one.partition("@")[0] in repos or self._s.sees(caller, one)]

    def sees(self, caller: Caller, told: Mapping[str, Any], image: str = "") -> bool:
        """Whether a caller may use an image, by that name, or by its id."""
        tags, digests = self.names(caller, told)
        if image and not image.startswith(ID):
            return canonical(image) in (*tags, *digests)
        return bool(tags or digests) or self._s.sees(caller, str(told["Id"]))

    def brought(self, caller: Caller, names: Iterable[str]) -> list[str]:
        """The names and ids, of these, under which a tenant has brought something."""
        return [name for name in names if caller.tenant in self._s.view.rights(canonical(name))]

    async def there(self, x: Exchange, image: str) -> set[str]:
        """The hosts that have an image of that name. All are asked, as it may have come or gone since they told of
        theirs; those that do not answer are taken at their word."""
        name, told, hosts = canonical(image), self._s.view.told(image), self._s.hosts(x.caller)
        found, failed = await self._s.upstreams.each(hosts, lambda host: self._inspected(host, name))
        gone = {host for host, error in failed.items() if isinstance(error, Refused) and error.status == GONE}
        return (told | found.keys()) - gone

    async def known(self, x: Exchange) -> set[str]:
        """The names and ids of all images of all hosts; of those that do not answer, what they have told."""
        view, listed = self._s.view, await self._listed(x)
        away = (view.vitals(one.name).images for one in view.machines() if one.name not in listed)
        return set[str]().union(*away, *(names_of(one) for found in listed.values() for one in found))

    async def _listed(self, x: Exchange) -> dict[str, list[dict[str, Any]]]:
        return await self._s.every(x, "GET", f"{x.version}/images/json")

    # -- what becomes a tenant's -----------------------------------------------------------------------------

    async def check_making(self, x: Exchange, image: str, *, made: bool) -> None:
        """Whether a tenant may bring something under a name. Raises Forbidden."""
        if x.caller.tenant and image:
            rights = self._s.view.rights(canonical(image))
            others = [theirs for tenant, theirs in rights.items() if tenant != x.caller.tenant]
            own = rights.get(x.caller.tenant)
            if any(others) or (made and not own and (others or await self.there(x, image))):
                raise Forbidden(f"image {image[:64]}: somebody else's image has that name: choose another")

    def due(self, caller: Caller, image: str, *, made: bool, operators: bool) -> Due:
        """When a tenant that brings something gets a right to it: before it is there, as nobody else may see it either
        until then; or, to what is there for others, when its pull has gone well. Never to what is operators'."""
        rights = self._s.view.rights(image)
        if not caller.tenant or caller.tenant in rights or operators:
            return ""
        return "before" if "@" not in image and (made or not rights) else "after"

    async def give(self, caller: Caller, image: str, *, made: bool = True) -> None:
        """A tenant has a right from now on."""
        if self._s.view.rights(canonical(image)).get(caller.tenant) != made:
            await self._s.work(self._s.desk.grant, caller.tenant, image, made=made)

    async def claim(self, x: Exchange, names: Iterable[str], known: Collection[str] = ()) -> None:
        """What a tenant has made, as an engine tells afterwards, is its own; but no name of others, nor one that was
        `known` before, and so operators'."""
        for name in map(canonical, names):
            has = self._s.view.rights(name).keys()
            if name.startswith(ID) or has == {x.caller.tenant} or not (has or name in known):
                await self.give(x.caller, name)

    # -- what a tenant hears ---------------------------------------------------------------------------------

    async def own(self, x: Exchange) -> dict[str, bool]:
        """The ids of what a tenant has brought, for `hears`."""
        listed = (await self._listed(x)).values()
        return {str(one["Id"]): True for found in listed for one in found if self.brought(x.caller, names_of(one))}

    async def hears(self, x: Exchange, event: Mapping[str, Any], own: dict[str, bool]) -> bool:
        """Whether an event is about something that a tenant has brought. Engines tell of what is tagged or pulled by
        its name, of all else by its id: `own` has what is known of ids, and gets more."""
        action, image, told = event.get("Action"), str(event["Actor"].get("ID")), event["Actor"]["Attributes"]
        host, name = str(told[HOST_LABEL]), str(told.get("name")) if action == "tag" else image
        if not name.startswith(ID):
            mine = bool(self.brought(x.caller, (name,)))
            if mine and not own.get(image):
                own[image if action == "tag" else (await self._told_by(host, image)).get("Id", "")] = True
            return mine
        if action in COMING and image not in own:
            there = names_of(await self._told_by(host, image))
            if not self.brought(x.caller, there) and self._s.powers(x.caller):
                await asyncio.sleep(MOMENT)  # its right is on its way, if this is what it loads
            own[image] = bool(self.brought(x.caller, there))
        return own.get(image, False) or bool(self.brought(x.caller, (image,)))

    async def _told_by(self, host: str, image: str) -> dict[str, Any]:
        """What a host tells of an image; nothing: it has none, or does not answer."""
        try:
            return await self._inspected(self._s.view.machine(host), image)
        except QnetError:
            return {}

    async def _inspected(self, host: Machine, image: str) -> dict[str, Any]:
        return dict(await self._s.upstreams.call(host, "GET", f"/images/{image}/json"))


def tags_of(told: Mapping[str, Any]) -> list[str]:
    """An image's tags, as an engine tells of it."""
    return [tag for tag in told.get("RepoTags") or () if NONE not in tag]


def names_of(told: Mapping[str, Any]) -> list[str]:
    """Its tags, its digests and its id."""
    return [*tags_of(told), *(told.get("RepoDigests") or ()), str(told.get("Id", ""))]
