"""A registry of images at a host's address, as little of one as engines need; it knows who asked, and from where."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from plugins.network.packets import inside
from tests.lab import certificates
from tests.lab.host import Host
from tests.lab.namespaces import NETNS

PORT = 5000
MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")
BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})")
UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/(\d*)")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request; `who` is empty without credentials, or with wrong ones."""

    address: str
    who: str
    method: str
    path: str


@dataclass
class Registry:
    """What it has, and what it was asked. Only those who say a user's password are served."""

    address: str
    users: dict[str, str]
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As images' names begin."""
        return f"{self.address}:{PORT}"

    def copy(self, image: str, other: str) -> None:
        """Have an image under another name too."""
        for (name, reference), found in list(self.manifests.items()):
            if name == image:
                self.manifests[other, reference] = found

    def served(self, method: str, part: str) -> set[tuple[str, str]]:
        """From where and by whom something was asked with success, by its method and a part of its path."""
        return {(one.address, one.who) for one in self.asked if one.who and one.method == method and part in one.path}


class _Handler(BaseHTTPRequestHandler):
    """One request: https://distribution.github.io/distribution/spec/api/."""

    registry: Registry

    def handle(self) -> None:
        with suppress(OSError):  # whoever breaks off, or does not trust us
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        content = self._content()
        if not self._known():
            return
        path, _, _ = self.path.partition("?")
        if path == "/v2/":
            self._answer(200, b"{}")
        elif self.command == "PUT" and (found := MANIFEST.fullmatch(path)):
            self._put(found[1], found[2], content)
        elif found := MANIFEST.fullmatch(path):
            self._manifest(found[1], found[2])
        elif found := UPLOAD.fullmatch(path):
            self._upload(found[1], found[2], content)
        elif (found := BLOB.fullmatch(path)) and found[2] in self.registry.blobs:
            self._answer(200, self.registry.blobs[found[2]], **{"Docker-Content-Digest": found[2]})
        else:
            self._answer(404, _error("BLOB_UNKNOWN"))

    do_HEAD = do_POST = do_PATCH = do_PUT = do_GET

    def _known(self) -> bool:
        with suppress(ValueError):
            said = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
            user, _, password = said.partition(":")
            if self.registry.users.get(user) == password:
                self._note(user)
                return True
        self._note("")
        self._answer(401, _error("UNAUTHORIZED"), **{"WWW-Authenticate": 'Basic realm="lab"'})
        return False

    def _note(self, who: str) -> None:
        self.registry.asked.append(Asked(self.client_address[0], who, self.command, self.path))

    def _put(self, image: str, reference: str, content: bytes) -> None:
        digest, kind = _digest(content), self.headers["Content-Type"]
        for name in (reference, digest):
            self.registry.manifests[image, name] = (kind, content)
        self._answer(201, Location=f"/v2/{image}/manifests/{digest}", **{"Docker-Content-Digest": digest})

    def _manifest(self, image: str, reference: str) -> None:
        kind, content = self.registry.manifests.get((image, reference), ("", b""))
        if kind:
            self._answer(200, content, kind, **{"Docker-Content-Digest": _digest(content)})
        else:
            self._answer(404, _error("MANIFEST_UNKNOWN"))

    def _upload(self, image: str, number: str, content: bytes) -> None:
        """Begin one, go on with it, or end it."""
        number = number or str(len(self.registry.uploads) + 1)
        data = self.registry.uploads.setdefault(number, bytearray())
        data += content
        where = {"Location": f"/v2/{image}/blobs/uploads/{number}", "Docker-Upload-UUID": number}
        if self.command != "PUT":
            self._answer(202, Range=f"0-{max(0, len(data) - 1)}", **where)
            return
        (asked,) = parse_qs(urlsplit(self.path).query)["digest"]
        if asked != _digest(bytes(data)):
            self._answer(400, _error("DIGEST_INVALID"))
            return
        self.registry.blobs[asked] = bytes(data)
        self._answer(201, Location=f"/v2/{image}/blobs/{asked}", **{"Docker-Content-Digest": asked})

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = bytearray()
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(found)

    def _answer(self, status: int, content: bytes = b"", kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        fixed = {"Docker-Distribution-Api-Version": "registry/2.0", "Content-Type": kind}
        for name, value in {**fixed, **headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _error(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}).encode()


@contextmanager
def serving(host: Host, trusted_by: Sequence[Host], users: dict[str, str]) -> Iterator[Registry]:
    """A registry at a host's address, which engines trust by the lab's authority, as long as it is needed."""
    registry = Registry(host.address, users)
    layout = host.node.layout
    cert, key = certificates.make(layout, "registry", host.name, [host.address])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    for one in trusted_by:
        folder = one.node.disk / "private/etc/docker/certs.d" / registry.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.crt").write_bytes((certificates.folder(layout) / "ca.pem").read_bytes())
    with inside(str(NETNS / host.node.netns)):
        server = ThreadingHTTPServer((host.address, PORT), type("Handler", (_Handler,), {"registry": registry}))
    # whoever connects shakes hands in a thread of its own
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
