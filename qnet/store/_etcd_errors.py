"""What an error of gRPC or etcd means for a call: move on, authenticate again, or tell the caller.

The texts are those of etcd's `api/v3rpc/rpctypes/error.go`: its status codes alone do not tell cases apart.
"""

from __future__ import annotations

import re
from typing import Any

import grpc

from qnet.errors import Exhausted, InvalidRequest, NotFound, QnetError, Unavailable

_CODE = grpc.StatusCode
_BROKEN = frozenset(
    {
        _CODE.UNAVAILABLE,
        _CODE.DEADLINE_EXCEEDED,
        _CODE.INTERNAL,
        _CODE.UNKNOWN,
        _CODE.ABORTED,
        _CODE.CANCELLED,
        _CODE.DATA_LOSS,
    }
)
_TOKEN = ("invalid auth token", "user name is empty", "revision of auth store is old")
_NEVER_SENT = ("failed to connect to all addresses", "etcdserver: no leader")
_SPACE = "database space exceeded"
_TOO_LARGE = ("request is too large", "message larger than max")
_ERRNO = re.compile(r" \(\d+\)$")


def broken(error: Any) -> bool:
    """The endpoint did not do the call, or is not known to have done it."""
    return error.code() in _BROKEN or "too many requests" in detail(error)


def never_sent(error: Any) -> bool:
    """The request certainly had no effect."""
    text = error.details() or ""
    return text.startswith(_NEVER_SENT) or "too many requests" in text


def refused(error: Any) -> bool:
    """There was no connection and there will be none in the next moment."""
    return (error.details() or "").startswith(_NEVER_SENT[0])


def wants_token(error: Any) -> bool:
    """The token is missing, has expired, or is from before a change of users; nothing was done."""
    return error.code() is _CODE.UNAUTHENTICATED or any(text in detail(error) for text in _TOKEN)


def auth_is_off(error: Any) -> bool:
    """The cluster knows no users."""
    return "authentication is not enabled" in detail(error)


def detail(error: Any) -> str:
    """The error's text in lower case, without etcd's and gRPC's wrapping: "connection refused"."""
    text: str = (error.details() or error.code().name).strip()
    if error.code() is _CODE.DEADLINE_EXCEEDED:
        return "no answer in time"
    if refused(error) or "ipv4:" in text or "ipv6:" in text:
        text = _ERRNO.sub("", text.rstrip("; ")).rsplit(": ", 1)[-1]
    return _ERRNO.sub("", text.removeprefix("etcdserver: ").lower())


def translate(what: str, error: Any, user: str) -> QnetError:
    """The qnet error for an answer that trying again, or elsewhere, would not change."""
    text, code = detail(error), error.code()
    if code is _CODE.NOT_FOUND or "has been compacted" in text:
        return NotFound(f"etcd cannot {what}: {text}")
    if _SPACE in text:
        return Exhausted(f"etcd cannot {what}: its database is full; compact and defragment it, then disarm its alarm")
    if any(part in text for part in _TOO_LARGE):
        return InvalidRequest(f"etcd refused to {what}: the request is too large ({text})")
    if code in (_CODE.PERMISSION_DENIED, _CODE.UNAUTHENTICATED) or "authentication failed" in text:
        return InvalidRequest(f"etcd refused to {what} for user {user or '(none)'}: {text}")
    if code is _CODE.RESOURCE_EXHAUSTED:
        return Unavailable(f"etcd cannot {what}: {text}")
    return InvalidRequest(f"etcd refused to {what}: {text}")
