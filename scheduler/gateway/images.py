"""Images: what is brought is brought to every host, what is asked is asked of those that have it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import msgspec

from qnet.errors import Conflict, Exhausted, InvalidRequest
from scheduler.ask import IMAGE
from scheduler.callers import Forbidden
from scheduler.feasible import canonical
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.rights import ID, NONE, Due, Rights, names_of, tags_of
from scheduler.gateway.routes import Route
from scheduler.gateway.services import HOST_LABEL, Services, filters_of, filters_text, labelled, take_hosts, total
from scheduler.gateway.spreading import Spreading
from scheduler.gateway.upstream import BAD, GONE, Missing, Refused
from scheduler.model import Machine

AUTH = "x-registry-auth"
BEGINNING = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")  # of an id, or a name
FULL = 64  # digits of an id
REPO = re.compile(r"(:[^/:@]+|@.+)$")  # what follows it
LOADED = re.compile(r"^Loaded image(?: ID)?: (\S+)$", re.MULTILINE)


class Images:
    """See the module."""

    def __init__(self, services: Services) -> None:
        self._s = services
        self.rights = Rights(services)

    def routes(self) -> list[Route]:
        """All of `/images`, and the registry's."""
        one = "/images/{image}"
        return [
            Route("GET", "/images/json", "aggregated", self.all),
            Route("POST", "/images/create", "fanned out", self.bring),
            Route("POST", "/images/load", "fanned out", self.load),
            Route("POST", "/images/prune", "fanned out", self.prune),
            Route("GET", "/images/search", "one host", self._any("images", "search")),
            Route("GET", "/images/get", "owner", self.save_several),
            Route("GET", f"{one}/get", "owner", self.save),
            Route("GET", f"{one}/json", "owner", self.inspect),
            Route("GET", f"{one}/history", "owner", self.history),
            Route("POST", f"{one}/push", "owner", self.push),
            Route("POST", f"{one}/tag", "fanned out", self.tag),
            Route("DELETE", one, "fanned out", self.remove),
            Route("GET", "/distribution/{image}/json", "one host", self._registry),
            Route("POST", "/auth", "one host", self._any("auth")),
        ]

    # -- lists -----------------------------------------------------------------------------------------------

    async def all(self, x: Exchange) -> None:
        """Each image once, with all its names, and the hosts that have it."""
        filters = filters_of(x)
        hosts = take_hosts(filters, self._s.hosts(x.caller))
        if x.caller.tenant:
            for border in ("before", "since"):
                filters[border] = [await self.asked(x, image) for image in filters.get(border, ())]
                for image in filters[border]:
                    await self.holders(x, image)
        path = x.target("images", "json", query={"filters": filters_text(filters)})
        named = bool(filters.get("reference"))  # engines list none without a name then
        await x.answer(200, self.merged(x, await self._s.every(x, "GET", path, hosts=hosts), named=named))

    def merged(
        self, x: Exchange, found: Mapping[str, list[dict[str, Any]]], *, named: bool = False
    ) -> list[dict[str, Any]]:
        """The images that hosts list, the newest first, for a caller; `named`: those only that it has a name for."""
        merged: dict[str, dict[str, Any]] = {}
        for host, listed in found.items():
            for entry in listed:
                there = merged.get(entry["Id"])
                if there is None:
                    merged[entry["Id"]] = labelled(entry, host)
                    continue
                there["Labels"][HOST_LABEL] += f",{host}"
                for names in ("RepoTags", "RepoDigests"):
                    there[names] = _union(there.get(names), entry.get(names))
        images = sorted(merged.values(), key=lambda entry: -entry.get("Created", 0))
        if not x.caller.tenant:
            return images
        mine = []
        for entry in images:
            if self.rights.sees(x.caller, entry):
                tags, digests = self.rights.names(x.caller, entry)
                if not tags and not digests:
                    if named:
                        continue
                    tags, digests = [f"{NONE}:{NONE}"], [f"{NONE}@{NONE}"]
                mine.append({**entry, "RepoTags": tags, "RepoDigests": digests})
        return mine

    # -- one of them -----------------------------------------------------------------------------------------

    async def holders(self, x: Exchange, image: str, *, every: bool = False) -> list[Machine]:
        """Hosts that have an image which the caller may see; `every`: all of them, else those that are known first.

        Raises:
            Missing: none has.
        """
        found = await self._found(x, image, every=every)
        return [host for host in self._s.hosts(x.caller) if host.name in found]

    async def _found(self, x: Exchange, image: str, *, every: bool = False) -> dict[str, dict[str, Any]]:
        """The same, by the hosts' names, with what each tells of it."""
        hosts = self._s.hosts(x.caller)
        known = [host for host in hosts if canonical(image) in self._s.view.vitals(host.name).images]
        likely = [] if every else known
        for some in (likely, [host for host in hosts if host not in likely]):
            found, failed = await self._s.upstreams.each(
                some, lambda host: self._s.upstreams.call(host, "GET", x.target("images", image, "json", query={}))
            )
            if x.caller.tenant:
                found = {name: told for name, told in found.items() if self.rights.sees(x.caller, told, image)}
            if found:
                return found
            strange = [error for error in failed.values() if isinstance(error, Refused) and error.status != GONE]
            if strange:
                raise strange[0]
        raise Missing(f"No such image: {canonical(image) if not image.startswith(ID) else image}")

    async def asked(self, x: Exchange, image: str) -> str:
        """The image that a caller names. Of a tenant's there is one way only to say it, as engines know more: its name,
        or all of its id. The beginning of an id is looked for among what the tenant sees. Raises Missing."""
        beginning = BEGINNING.fullmatch(image)
        if x.caller.operator or not beginning:
            return canonical(image) if x.caller.tenant else image
        if len(beginning[1]) == FULL:
            return ID + beginning[1]
        seen = self.merged(x, await self._s.every(x, "GET", f"{x.version}/images/json"))
        ids = [str(entry["Id"]) for entry in seen if entry["Id"].startswith(ID + beginning[1])]
        if len(ids) == 1 and not any(canonical(image) in entry["RepoTags"] for entry in seen):
            return ids[0]
        if image.startswith(ID):
            raise Missing(f"No such image: {image}")
        return canonical(image)

    async def usable(self, x: Exchange, image: str) -> str:
        """The same of one that a container is to be made of. Raises Missing: the caller may not use it."""
        image = await self.asked(x, image)
        if not self._s.sees(x.caller, image):
            await self._found(x, image)
        return image

    async def ancestors(self, x: Exchange, images: Iterable[str]) -> list[str]:
        """Those, of images that containers are looked for by, that the caller may see. An id tells a tenant nothing: it
        finds no containers but its own, and they say theirs."""
        found = []
        for image in images:
            with suppress(Missing):
                found.append(image if BEGINNING.fullmatch(image) else await self.usable(x, image))
        return found

    async def inspect(self, x: Exchange) -> None:
        """All of one, as the first host that has it tells."""
        image = await self.asked(x, x.args["image"])
        has = await self.holders(x, image)
        names = ",".join(host.name for host in has)

        def shown(found: dict[str, Any]) -> dict[str, Any]:
            if isinstance(found.get("Config"), dict):
                labelled(found["Config"], names)
            if x.caller.tenant:
                found["RepoTags"], found["RepoDigests"] = self.rights.names(x.caller, found)
            return found

        await x.rewritten(has[0], x.target("images", image, "json"), shown)

    async def history(self, x: Exchange) -> None:
        """What it was made of."""
        image = await self.asked(x, x.args["image"])
        has = await self.holders(x, image)

        def shown(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
            for layer in layers:
                layer["Tags"] = self.rights.names(x.caller, {"RepoTags": layer.get("Tags")})[0] or None
            return layers

        target = x.target("images", image, "history")
        await (x.rewritten(has[0], target, shown) if x.caller.tenant else x.relay(has[0], target))

    async def push(self, x: Exchange) -> None:
        """Bring it to its registry, from a host that has it."""
        image = joined(x.args["image"], x.request.parameter("tag"))
        try:
            has = await self.holders(x, canonical(image) if x.caller.tenant else image)
        except Missing:
            if x.caller.tenant:
                raise
            has = [self._s.any_host(x.caller)]  # whose engine tells it in the middle of the progress
        if x.caller.tenant:
            repo, _, tag = canonical(image).rpartition(":")
            target = x.target("images", repo, "push", query={"tag": tag})
        else:
            target = x.target("images", x.args["image"], "push")
        status = await x.relay(has[0], target)
        self._s.note(x, "image push", image, has[0].name, _result(status))

    def _any(self, *path: str) -> Callable[[Exchange], Any]:
        async def relay(x: Exchange) -> None:
            await x.relay(self._s.any_host(x.caller), x.target(*path))

        return relay

    async def _registry(self, x: Exchange) -> None:
        await x.relay(self._s.any_host(x.caller), x.target("distribution", x.args["image"], "json"))

    async def save(self, x: Exchange) -> None:
        """One image as a tar file."""
        image = await self.asked(x, x.args["image"])
        has = await self.holders(x, image)
        await x.relay(has[0], x.target("images", image, "get", query={"names": ""}))

    async def save_several(self, x: Exchange) -> None:
        """Several, from a host that has all of them."""
        names = [await self.asked(x, value) for name, value in x.request.query if name == "names" and value]
        if not names:
            raise Missing("no image is named", 400)
        has = [await self.holders(x, name, every=True) for name in names]
        all_ = [host for host in has[0] if all(host in one for one in has)]
        if not all_:
            raise Conflict(f"no host has all of {', '.join(names)}: save them one by one, or pull them first")
        kept = [(name, value) for name, value in x.request.query if name != "names"]
        text = urlencode([*kept, *(("names", name) for name in names)])
        await x.relay(all_[0], f"{x.target('images', 'get', query={}).partition('?')[0]}?{text}")

    # -- changes ---------------------------------------------------------------------------------------------

    async def bring(self, x: Exchange) -> None:
        """Pull, on the host that was picked for a container that waits for it, or on all; or import on all."""
        source, tag = x.request.parameter("fromSrc"), x.request.parameter("tag")
        image = joined(x.request.parameter("fromImage") or x.request.parameter("repo"), tag)
        if image and not IMAGE.fullmatch(image):
            raise InvalidRequest(f"image {image[:64]!r}: give the name of an image")
        did, target = "image import" if source else "image pull", x.target("images", "create")
        if x.caller.tenant:
            if source not in ("", "-") or not image:
                raise Forbidden("hosts fetch nothing for a tenant: give the name of an image, or send it")
            await self.rights.check_making(x, image, made=bool(source))
            image = canonical(image)
            name = {"repo": image, "fromImage": ""} if source else {"fromImage": image, "repo": ""}
            target = x.target("images", "create", query={**name, "tag": ""})
        client = (x.caller.who, x.caller.process)
        pinned = self._s.pinned(*client, image) or self._s.pinned(*client, image.removesuffix(":latest"))
        hosts = [host for host in self._s.hosts(x.caller) if host.name == pinned] or self._s.hosts(x.caller)
        if not hosts:
            raise Exhausted("no host is up")
        if len(hosts) == 1 and not x.caller.tenant:
            status = await x.relay(hosts[0], target)
            self._s.note(x, did, image, hosts[0].name, _result(status))
            return
        foreign = x.caller.tenant and not source and not self._s.view.rights(image)
        has = await self.rights.there(x, image) if foreign else set[str]()
        hosts = [host for host in hosts if host.name not in has]  # operators': a tenant moves none of their names
        if not hosts:
            await x.answer(200, {"status": f"Status: Image is up to date for {image}"})
            return
        due = self.rights.due(x.caller, image, made=bool(source), operators=bool(has))
        headers = {AUTH: x.request.headers[AUTH]} if AUTH in x.request.headers else {}
        await self._everywhere(x, Spreading(self._s.upstreams, hosts, target, headers), did, image, due)

    async def load(self, x: Exchange) -> None:
        """Load images on all hosts."""
        if not self._s.powers(x.caller):
            raise Forbidden("docker load is for trusted tenants, as its names cannot be checked: pull from a registry")
        hosts, target = self._s.hosts(x.caller), x.target("images", "load")
        if len(hosts) == 1 and x.caller.operator:
            await x.relay(hosts[0], target)
            return
        known = await self.rights.known(x) if x.caller.tenant else ()

        async def heard(told: Mapping[str, Any]) -> None:
            await self.rights.claim(x, LOADED.findall(str(told.get("stream") or "")), known)

        own = heard if x.caller.tenant else None
        spreading = Spreading(self._s.upstreams, hosts, target, {}, own, lasting=bool(own))
        await self._everywhere(x, spreading, "image load")

    async def _everywhere(self, x: Exchange, spreading: Spreading, did: str, image: str = "", due: Due = "") -> None:
        """Bring something to hosts; a tenant has its right to it when that is due."""
        made = did != "image pull"

        async def finish() -> None:
            if due == "after":
                await self.rights.give(x.caller, image, made=made)

        if due == "before":
            await self.rights.give(x.caller, image, made=made)
        try:
            await spreading.answer(x, finish)
        finally:
            if due == "before" and not spreading.done:
                self._s.later(self._s.work(self._s.desk.revoke, x.caller.tenant, image))
            self._s.note(x, did, image, ", ".join(spreading.done), "done" if spreading.done else "refused")

    async def tag(self, x: Exchange) -> None:
        """Another name, on every host that has the image."""
        image = joined(x.request.parameter("repo"), x.request.parameter("tag"))
        await self.rights.check_making(x, image, made=True)
        source = await self.asked(x, x.args["image"])
        first, *others = await self.holders(x, source, every=True)
        query = {"repo": canonical(image), "tag": ""} if x.caller.tenant else None
        target = x.target("images", source, "tag", query=query)
        if x.caller.tenant:
            await self.rights.give(x.caller, image)
        for host in others:
            await self._s.upstreams.call(host, "POST", target)
        status = await x.relay(first, target, b"")
        where = ", ".join(host.name for host in (first, *others))
        self._s.note(x, "image tag", f"{source} as {image}", where, _result(status))

    async def remove(self, x: Exchange) -> None:
        """Remove an image from every host that has it. A tenant gives up its right; what nobody else has one to goes,
        and only then the right: without any, it would be for all."""
        image = await self.asked(x, x.args["image"])
        there = await self._found(x, image, every=True)
        gone = [one for name in self._own(x, image, there) for one in await self._remove(x, name, there)]
        await x.answer(200, list({msgspec.json.encode(one): one for one in gone}.values()))

    def _own(self, x: Exchange, image: str, there: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """What goes with an image: of one that a tenant names by its id, the names that it has brought."""
        if x.caller.operator or not image.startswith(ID):
            return [image]
        names = {name for told in there.values() for name in names_of(told)} - {image}
        own = sorted(self.rights.brought(x.caller, names))
        if len({REPO.sub("", name) for name in own}) > 1 and x.request.parameter("force") not in ("1", "true"):
            what = f"conflict: unable to delete {image[len(ID) :][:12]} (must be forced)"
            raise Refused(409, f"{what} - image is referenced in multiple repositories")
        return own or [image]

    async def _remove(self, x: Exchange, name: str, there: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
        rights = self._s.view.rights(canonical(name))
        if x.caller.tenant:
            others = name.startswith(ID) and any(tags_of(told) for told in there.values())
            if others or rights.keys() != {x.caller.tenant}:
                await self._s.work(self._s.desk.revoke, x.caller.tenant, name)
                return [{"Untagged": name}]
        hosts = [host for host in self._s.hosts(x.caller) if host.name in there]
        found, failed = await self._s.upstreams.each(
            hosts, lambda host: self._s.upstreams.call(host, "DELETE", x.target("images", name))
        )
        self._s.note(x, "image remove", name, ", ".join(found), "done" if found else "refused")
        refused = [error for error in failed.values() if not (isinstance(error, Refused) and error.status == GONE)]
        if refused:
            raise refused[0]
        gone = [one for told in found.values() for one in told or ()]
        if not await self.rights.there(x, name):
            for image in {canonical(name), *(one["Deleted"] for one in gone if "Deleted" in one)}:
                for tenant in list(self._s.view.rights(image)):
                    await self._s.work(self._s.desk.revoke, tenant, image)
        return gone

    async def prune(self, x: Exchange) -> None:
        """Remove what no container uses, on every host."""
        if x.caller.tenant:
            raise Forbidden("images are shared by the hosts' tenants: remove your own with docker rmi")
        filters = filters_of(x)
        hosts = take_hosts(filters, self._s.hosts(x.caller))
        path = x.target("images", "prune", query={"filters": filters_text(filters)})
        found = await self._s.every(x, "POST", path, hosts=hosts)
        gone = {msgspec.json.encode(one): one for told in found.values() for one in told.get("ImagesDeleted") or ()}
        self._s.note(x, "image prune", f"{len(gone)} images")
        await x.answer(
            200, {"ImagesDeleted": list(gone.values()) or None, "SpaceReclaimed": total(found, "SpaceReclaimed")}
        )


def _union(one: list[str] | None, other: list[str] | None) -> list[str]:
    return list(dict.fromkeys([*(one or ()), *(other or ())]))


def joined(name: str, tag: str) -> str:
    """An image's name of its parts. Raises InvalidRequest: there are two tags."""
    if not tag or not name:
        return name
    if ":" in name.rpartition("/")[2] or "@" in name:
        raise InvalidRequest(f"image {name[:64]!r} with tag {tag[:64]!r}: one of them")
    return f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"


def _result(status: int) -> str:
    return "done" if status < BAD else f"refused: {status}"
