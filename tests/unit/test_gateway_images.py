"""Images of tenants at the front: what each brings is its own, and it hears and sees no names of others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest

from scheduler.feasible import canonical
from scheduler.gateway import builds
from scheduler.gateway.http import Answer, Request
from tests.store.memory import MemoryStore
from tests.unit.front_world import Front, id_of

APP, BASE, OTHER = id_of("aa1"), id_of("bb1"), id_of("aa2")
DIGEST = "sha256:" + "d" * 64
MADE, PULLED = {"shop": True}, {"shop": False}


def with_front(body: Callable[[Front], Awaitable[None]], hosts: int = 2) -> None:
    """Have a front do something."""

    async def run() -> None:
        store = MemoryStore()
        try:
            async with Front(store, hosts) as front:
                await asyncio.wait_for(body(front), 20)
        finally:
            store.close()

    asyncio.run(run())


def says(front: Front, what: str, *lines: dict[str, Any], status: int = 200) -> None:
    """Have engines answer that to what ends like this."""

    def also(request: Request, _: bytes) -> tuple[int, Any] | None:
        return (status, list(lines)) if request.method == "POST" and request.path.endswith(what) else None

    for engine in front.engines.values():
        engine.also = also


# -- what becomes a tenant's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2])
def test_what_a_tenant_loads_is_its_own(hosts: int) -> None:
    async def body(front: Front) -> None:
        front.put(BASE, "busybox:latest")
        front.desk.grant("evil", "evil/app:1", made=True)
        told = ("shop/app:1", "docker.io/shop/more:2", "busybox:latest", "evil/app:1")
        lines = [{"stream": f"Loaded image: {name}\n"} for name in told]
        says(front, "/load", *lines, {"stream": f"Loaded image ID: {APP}\nLoaded image ID: {OTHER}\n"})
        status, answered = await front.ask("shop", "POST", "/images/load", b"tar")
        assert status == 200
        assert len(answered) == 5 * hosts
        for name in ("shop/app:1", "shop/more:2", APP, OTHER):
            assert front.rights(name) == MADE, name
        assert front.rights("busybox:latest") == {}
        assert front.rights("evil/app:1") == {"evil": True}
        assert (await front.ask("", "POST", "/images/load", b"tar"))[0] == 200

    with_front(body, hosts)


def test_a_tenant_has_what_it_loads_before_it_is_told() -> None:
    async def body(front: Front) -> None:
        says(front, "/load", {"stream": "Loaded image: shop/app:1\n"}, {"stream": "more"})
        granted, grant = asyncio.Event(), front.desk.grant

        def slow(*words: Any, **more: Any) -> None:
            granted.set()
            grant(*words, **more)

        front.desk.grant = slow  # type: ignore[method-assign]
        client = await front.open("shop", "POST", "/images/load", b"tar")
        answer = Answer(client, await client.head(), "POST")
        first = await anext(answer.lines())
        assert granted.is_set()
        assert b"Loaded" in first
        client.close()

    with_front(body)


def test_what_a_tenant_loads_is_its_own_though_it_leaves() -> None:
    async def body(front: Front) -> None:
        going = asyncio.Event()
        lines = [{"stream": "x" * 1000}] * 3000 + [{"stream": "Loaded image: shop/app:1\n"}]
        says(front, "/load", *lines)
        client = await front.open("shop", "POST", "/images/load", b"tar")
        await client.read()
        client.close()
        going.set()
        await front.services.until(lambda: bool(front.rights("shop/app:1")))
        assert front.rights("shop/app:1") == MADE

    with_front(body)


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        ("", [{"aux": {"ID": OTHER}}, {"stream": "Step 2/2"}, {"aux": {"ID": APP}}, {"stream": "Successfully built"}]),
        ("?version=2", [{"id": "moby.buildkit.trace", "aux": "CgA="}, {"id": "moby.image.id", "aux": {"ID": APP}}]),
        ("?q=1", [{"stream": f"{APP}\n"}]),
    ],
)
def test_a_build_without_a_name_is_the_tenants(query: str, lines: list[dict[str, Any]]) -> None:
    async def body(front: Front) -> None:
        says(front, "/build", *lines)
        status, answered = await front.ask("shop", "POST", f"/build{query}", b"tar")
        assert status == 200
        assert answered == lines
        assert front.rights(APP) == MADE
        assert front.rights(OTHER) == {}

    with_front(body)


def test_no_words_of_a_build_give_rights_and_its_errors_are_whole() -> None:
    async def body(front: Front) -> None:
        error = {"errorDetail": {"code": 7, "message": "no"}, "error": "no"}
        says(front, "/build", {"stream": f"{APP}\n"}, {"stream": f'"aux":{{"ID":"{APP}"}}'}, error)
        _, answered = await front.ask("shop", "POST", "/build", b"tar")
        assert answered[-1] == error
        says(front, "/build", {"stream": f"{APP}\n"}, {"stream": f'"aux":{{"ID":"{APP}"}}'})
        assert (await front.ask("shop", "POST", "/build", b"tar"))[0] == 200
        assert front.rights(APP) == {}

    with_front(body)


def test_what_buildkits_connection_leaves_is_the_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what was there, what is somebody's, and what was pulled meanwhile."""
    monkeypatch.setattr(builds, "LOOK", 0.02)

    async def body(front: Front) -> None:
        front.put(BASE, "busybox:latest")
        front.put(OTHER, "ops/elsewhere:1", hosts="host2")
        front.desk.grant("evil", "evil/app:1", made=True)
        for engine in front.engines.values():
            engine.also = lambda request, _: (101, None) if request.path.endswith("/grpc") else None
        client = await front.open("shop", "POST", "/grpc", Connection="Upgrade", Upgrade="h2c")
        assert Answer(client, await client.head(), "POST").status == 101
        for engine in front.engines.values():
            engine.told.put_nowait({"Actor": {"ID": "ops/new:1"}, "Action": "pull"})
            engine.images[APP] = ["shop/app:1", "evil/app:1", "ops/new:1", "ops/elsewhere:1"]
            engine.images[id_of("cc")] = ["<none>:<none>"]
        await front.services.until(lambda: bool(front.rights("shop/app:1")))
        assert front.rights("shop/app:1") == MADE
        assert front.rights(id_of("cc")) == MADE
        for engine in front.engines.values():
            engine.images[id_of("dd")] = ["shop/last:1"]
        client.close()
        await front.services.until(lambda: bool(front.rights("shop/last:1")))
        assert front.rights("shop/last:1") == MADE
        assert front.rights("evil/app:1") == {"evil": True}
        for name in ("ops/new:1", "ops/elsewhere:1", "busybox:latest", APP, BASE):
            assert front.rights(name) == {}, name

    with_front(body)


# -- pulls -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "early", "after"),
    [
        ("new/app:1", PULLED, PULLED),
        ("evil/app:1", {"evil": False}, {"evil": False, "shop": False}),
        (f"evil/app@{DIGEST}", {}, PULLED),
        ("shop/app:1", MADE, MADE),
    ],
)
@pytest.mark.parametrize("good", [True, False])
def test_when_a_pull_gives_a_right(image: str, early: dict[str, bool], after: dict[str, bool], good: bool) -> None:
    """Before it is there if nobody has it, else when it has gone well: until then a tenant may not use what others have
    brought, by no name and no digest."""

    async def body(front: Front) -> None:
        front.desk.grant("evil", "evil/app:1", made=False)
        front.desk.grant("shop", "shop/app:1", made=True)
        seen: list[dict[str, bool]] = []

        def also(request: Request, _: bytes) -> tuple[int, Any] | None:
            if not request.path.endswith("/images/create"):
                return None
            seen.append(front.rights(image))
            return 200, [{"status": "Pulling"}, {"status": "Done"} if good else {"error": "denied"}]

        for engine in front.engines.values():
            engine.also = also
        name, at, digest = image.partition("@")
        query = f"fromImage={name}&tag={digest}" if at else f"fromImage={image}"
        assert (await front.ask("shop", "POST", f"/images/create?{query}"))[0] == 200
        assert seen == [early, early]
        expected = after if good else {} if image == "new/app:1" else early
        await front.services.until(lambda: front.rights(image) == expected)
        assert front.rights(image) == expected

    with_front(body)


def test_a_tenants_pull_leaves_operators_images_alone() -> None:
    async def body(front: Front) -> None:
        front.put(BASE, "busybox:latest", hosts="host1")
        says(front, "/images/create", {"status": "Done"})
        await front.ask("shop", "POST", "/images/create?fromImage=busybox&tag=latest")
        assert not front.engines["host1"].asked
        assert len(front.engines["host2"].asked) == 1
        assert front.rights("busybox:latest") == {}
        front.put(BASE, "busybox:latest")
        front.engines["host2"].asked.clear()
        await front.ask("shop", "POST", "/images/create?fromImage=busybox&tag=latest")
        assert not front.engines["host2"].asked

    with_front(body)


def test_what_was_removed_a_moment_ago_is_nobodys() -> None:
    """Agents tell of it later: what a tenant brings under that name meanwhile is its own all the same."""

    async def body(front: Front) -> None:
        front.put(BASE, "busybox:latest")
        front.put(id_of("ee"), "shop/one:1", "shop/two:1", "shop/three:1")
        for engine in front.engines.values():
            del engine.images[id_of("ee")]
        says(front, "/images/create", {"status": "Done"})
        await front.ask("shop", "POST", "/images/create?fromImage=shop/one:1")
        says(front, "/load", {"stream": "Loaded image: shop/two:1"})
        await front.ask("shop", "POST", "/images/load", b"tar")
        assert (await front.ask("shop", "POST", "/images/busybox/tag?repo=shop/three&tag=1"))[0] == 201
        assert front.rights("shop/one:1") == PULLED
        assert front.rights("shop/two:1") == front.rights("shop/three:1") == MADE

    with_front(body)


# -- names of others ---------------------------------------------------------------------------------------------


def shared(front: Front) -> None:
    """An image that operators, and both tenants, have names for; one of a tenant's without a name; an operators'."""
    names = (
        "busybox:latest",
        "shop/app:1",
        "evil/app:1",
        f"evil/app@{DIGEST}",
        f"shop/app@{DIGEST}",
        "busybox@sha256:1",
    )
    front.put(APP, *names)
    front.put(OTHER)
    front.put(id_of("bb2"))
    for tenant in ("shop", "evil"):
        front.desk.grant(tenant, f"{tenant}/app:1", made=True)
    front.desk.grant("shop", OTHER, made=True)
    front.view.catch_up()


def test_no_answer_names_anothers_names() -> None:
    async def body(front: Front) -> None:
        shared(front)
        for path in (f"/images/{APP}/json", "/images/json", f"/images/{APP}/history"):
            for tenant, other in (("shop", "evil"), ("evil", "shop")):
                _, told = await front.ask(tenant, "GET", path)
                text = json.dumps(told)
                assert f"{other}/app" not in text, path
                assert f"{tenant}/app:1" in text, path
                assert "busybox:latest" in text, path
                if "history" not in path:
                    assert f"{tenant}/app@{DIGEST}" in text, path
                    assert "busybox@sha256:1" in text, path
            _, told = await front.ask("", "GET", path)
            assert "evil/app:1" in json.dumps(told)
            assert "shop/app:1" in json.dumps(told)

    with_front(body)


def test_what_has_no_name_is_its_makers() -> None:
    async def body(front: Front) -> None:
        shared(front)
        listed = (await front.ask("shop", "GET", "/images/json"))[1]
        assert {one["Id"] for one in listed} == {APP, OTHER}
        assert next(one for one in listed if one["Id"] == OTHER)["RepoTags"] == ["<none>:<none>"]
        assert {one["Id"] for one in (await front.ask("evil", "GET", "/images/json"))[1]} == {APP}
        for engine in front.engines.values():
            engine.images[id_of("bb2")] = ["<none>:<none>"]  # so older engines list it
        assert {one["Id"] for one in (await front.ask("evil", "GET", "/images/json"))[1]} == {APP}

    with_front(body)


@pytest.mark.parametrize("border", ["before", "since"])
def test_images_are_compared_with_those_of_ones_own(border: str) -> None:
    """Whether another tenant's image is there or not, the answer is the same."""

    async def body(front: Front) -> None:
        shared(front)
        said = [await filtered(front, "shop", border, name) for name in ("evil/app:1", "evil/none:1")]
        assert [(status, told["message"]) for status, told in said] == [
            (404, "No such image: evil/app:1"), (404, "No such image: evil/none:1"),
        ]  # fmt: skip
        for name in ("shop/app:1", "busybox", APP[:12]):
            assert (await filtered(front, "shop", border, name))[0] == 200
        assert (await filtered(front, "", border, "evil/app:1"))[0] == 200

    with_front(body)


def test_an_image_is_not_found_by_a_name_of_others() -> None:
    """What a tenant has no name for, but a right to, is listed by its id; not where an engine was asked for a name."""

    async def body(front: Front) -> None:
        shared(front)
        front.put(OTHER, "evil/secret:1")
        front.desk.grant("evil", "evil/secret:1", made=True)
        front.view.catch_up()
        assert OTHER in {one["Id"] for one in (await front.ask("shop", "GET", "/images/json"))[1]}
        assert OTHER not in {one["Id"] for one in (await filtered(front, "shop", "reference", "*/secret"))[1]}
        assert OTHER in {one["Id"] for one in (await filtered(front, "evil", "reference", "*/secret"))[1]}

    with_front(body)


async def filtered(front: Front, tenant: str, word: str, value: str) -> tuple[int, Any]:
    """The images that a filter leaves; the fake engines leave all."""
    return await front.ask(tenant, "GET", f"/images/json?filters={quote(json.dumps({word: [value]}))}")


# -- ids and digests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "status"),
    [
        ("aa1", 200), (f"{APP[:12]}", 200), (APP, 200), (APP.removeprefix("sha256:"), 200), ("shop/app:1", 200),
        (f"shop/app@{DIGEST}", 200), (f"shop/app:1@{DIGEST}", 200), (f"docker.io/shop/app@{DIGEST}", 200),
        ("aa", 404), ("bb", 404), ("bb2", 404), (id_of("bb2"), 404), ("ee", 404), ("sha256:ee", 404),
        ("sha256:aa", 404),
        (f"evil/app@{DIGEST}", 404), ("evil/app:1", 404), ("cafe", 200), ("cc", 200),
    ],
)  # fmt: skip
def test_a_tenant_names_its_images_by_ids_and_digests(image: str, status: int) -> None:
    async def body(front: Front) -> None:
        shared(front)
        front.put(id_of("cafe"), "evil/cafe:1")
        front.desk.grant("evil", "evil/cafe:1", made=True)
        front.put(id_of("cafe2"), "shop/coffee:1")
        front.put(id_of("cc2"), "cafe:latest")
        for path in ("json", "history"):
            answered, told = await front.ask("shop", "GET", f"/images/{image}/{path}")
            assert answered == status, (path, told)
        if image == "cafe":
            assert (await front.ask("shop", "GET", "/images/cafe/json"))[1]["Id"] == id_of("cc2")
        assert (await front.ask("shop", "POST", f"/images/{image}/tag?repo=shop/new&tag=1"))[0] == (
            201 if status == 200 else 404
        )

    with_front(body)


def test_one_of_several_is_told_by_its_id_among_a_tenants_own() -> None:
    """`aa` is the beginning of one image of evil's, and of two of the fleet's."""

    async def body(front: Front) -> None:
        shared(front)
        assert (await front.ask("evil", "GET", "/images/aa/json"))[1]["Id"] == APP
        assert (await front.ask("shop", "GET", "/images/aa/json"))[0] == 404

    with_front(body)


@pytest.mark.parametrize(
    ("image", "becomes"),
    [
        ("aa1", APP), ("aa2", OTHER), (APP, APP), (f"shop/app@{DIGEST}", f"shop/app@{DIGEST}"),
        ("busybox", "busybox:latest"),
        ("bb2", "bb2:latest"), (f"evil/app@{DIGEST}", None), ("evil/app:1", None), (id_of("bb2"), None),
    ],
)  # fmt: skip
def test_a_container_is_made_of_what_its_tenant_sees(image: str, becomes: str | None) -> None:
    async def body(front: Front) -> None:
        shared(front)
        bodies: list[str] = []

        def also(request: Request, sent: bytes) -> tuple[int, Any] | None:
            if not request.path.endswith("/containers/create"):
                return None
            bodies.append(json.loads(sent)["Image"])
            return 201, {"Id": "1" * 64, "Warnings": []}

        for engine in front.engines.values():
            engine.also = also
        body = {"Image": image, "HostConfig": {"NetworkMode": "shop"}}
        status, told = await front.ask("shop", "POST", "/containers/create?name=one", body)
        if becomes is None:
            assert status == 404, told
        else:
            assert (status, bodies) == (201, [becomes]), told

    with_front(body)


def test_what_is_named_by_its_id_is_looked_for_where_it_is() -> None:
    """It is in a registry too, but nobody could pull it from there by that."""

    async def body(front: Front) -> None:
        front.put(APP, "busybox:latest", "busybox@sha256:1", hosts="host2")
        made: list[str] = []

        def on(host: str) -> Callable[[Request, bytes], tuple[int, Any] | None]:
            def also(request: Request, sent: bytes) -> tuple[int, Any] | None:
                if not request.path.endswith("/containers/create"):
                    return None
                made.append(host)
                there = front.engines[host].find(json.loads(sent)["Image"])
                return (201, {"Id": "1" * 64}) if there else (404, {"message": "No such image: x"})

            return also

        for host, engine in front.engines.items():
            engine.also = on(host)
        for name in ("aa1", APP):
            for who, network in (("", "web"), ("shop", "shop")):
                body = {"Image": name, "HostConfig": {"NetworkMode": network}}
                for again in range(4):
                    made.clear()
                    status, told = await front.ask(
                        who, "POST", f"/containers/create?name={who}{name[-9:]}{again}", body
                    )
                    assert status == 201, told
                    assert made[-1] == "host2"

    with_front(body)


def test_no_engine_says_what_the_beginning_of_an_id_means() -> None:
    """One host has one such image, the next one another."""

    async def body(front: Front) -> None:
        shared(front)
        del front.engines["host1"].images[OTHER], front.engines["host2"].images[APP]
        body = {"Image": "sha256:aa", "HostConfig": {"NetworkMode": "shop"}}
        assert (await front.ask("shop", "POST", "/containers/create?name=one", body))[0] == 404
        assert not front.host.asked

    with_front(body)


def test_what_a_tenant_removes_by_id() -> None:
    async def body(front: Front) -> None:
        shared(front)
        status, told = await front.ask("shop", "DELETE", "/images/aa1")
        assert (status, told) == (200, [{"Untagged": "shop/app:1"}])
        assert front.rights("shop/app:1") == {}
        assert "evil/app:1" in front.host.images[APP]
        status, told = await front.ask("shop", "DELETE", "/images/aa2")
        assert {"Deleted": OTHER} in told
        assert OTHER not in front.host.images
        assert front.rights(OTHER) == {}
        assert (await front.ask("shop", "DELETE", "/images/bb2"))[0] == 404
        front.put(id_of("fa"), "evil/more:1")
        front.desk.grant("evil", "evil/more:1", made=True)
        front.desk.grant("shop", id_of("fa"), made=True)
        assert (await front.ask("shop", "DELETE", "/images/fa"))[0] == 200
        assert front.host.images[id_of("fa")] == ["evil/more:1"]
        assert front.rights(id_of("fa")) == {}
        for name in ("one:1", "two:1"):
            front.desk.grant("shop", name, made=True)
        front.put(id_of("ee"), "one:1", "two:1")
        assert (await front.ask("shop", "DELETE", "/images/ee"))[0] == 409
        assert (await front.ask("shop", "DELETE", "/images/ee?force=1"))[0] == 200
        assert id_of("ee") not in front.host.images

    with_front(body)


def test_an_operator_takes_all_rights_with_the_image() -> None:
    async def body(front: Front) -> None:
        shared(front)
        await front.ask("", "DELETE", "/images/aa2")
        assert front.rights(OTHER) == {}
        front.put(id_of("ff"), "shop/far:1")
        front.desk.grant("shop", "shop/far:1", made=True)
        front.engines["host2"].also = lambda *_: (500, {"message": "busy"})
        await front.ask("", "DELETE", "/images/shop/far:1")
        assert front.rights("shop/far:1") == MADE  # it may be there still

    with_front(body)


def test_a_tag_beside_a_digest_says_nothing() -> None:
    assert canonical("docker.io/library/a:1@sha256:2") == canonical("a@sha256:2") == "a@sha256:2"
    assert canonical("host:5000/a:1@sha256:2") == canonical("host:5000/a@sha256:2") == "host:5000/a@sha256:2"


# -- events ------------------------------------------------------------------------------------------------------


def test_a_tenant_hears_of_its_images_and_of_no_others() -> None:
    new, loaded, pulled, others = id_of("ab"), id_of("ac"), id_of("ad"), id_of("ae")
    not_its_own = [
        ("pull", "evil/app:1", ""), ("pull", "busybox:latest", ""), ("tag", APP, "evil/app:1"), ("load", others, ""),
        ("tag", id_of("bb2"), "ops/x:1"), ("untag", id_of("bb2"), ""), ("delete", others, ""),
    ]  # fmt: skip
    its_own = [
        ("pull", "shop/pulled:1", ""), ("untag", pulled, ""), ("untag", APP, ""), ("delete", APP, ""),
        ("delete", OTHER, ""), ("tag", new, "shop/app:1"), ("untag", new, ""), ("delete", new, ""),
        ("load", loaded, ""), ("delete", loaded, ""),
    ]  # fmt: skip

    async def body(front: Front) -> None:
        shared(front)
        front.desk.grant("shop", "shop/pulled:1", made=False)
        front.desk.grant("evil", "evil/loaded:1", made=True)
        client = await front.open("shop", "GET", "/events")
        lines = Answer(client, await client.head(), "GET").lines()
        front.host.images |= {pulled: ["shop/pulled:1"], others: ["evil/loaded:1"], loaded: ["shop/loaded:1"]}

        def tell(action: str, image: str, name: str) -> None:
            attributes = {"name": name or image}
            event = {"Type": "image", "Action": action, "Actor": {"ID": image, "Attributes": attributes}}
            front.host.told.put_nowait(event)

        heard = []
        for event in (*not_its_own, *its_own):
            tell(*event)
            if event in its_own:
                if event == ("load", loaded, ""):  # its line comes a moment later than the event
                    await asyncio.sleep(0.1)
                    front.desk.grant("shop", "shop/loaded:1", made=True)
                told = json.loads(await anext(lines))
                heard.append((told["Action"], told["Actor"]["ID"]))
        assert heard == [(action, image) for action, image, _ in its_own]
        client.close()

    with_front(body)
