"""nftables by its own library (libnftables(3)), in this process: a process of nft for each script takes four times as
long, which is what a container's start would wait for."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from qnet.errors import Unavailable, Unsupported

LIBRARY = "libnftables.so.1"
JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON
SIGNATURES: dict[str, tuple[Any, ...]] = {  # what each returns, and takes
    "nft_ctx_new": (ctypes.c_void_p, ctypes.c_uint32),
    "nft_ctx_free": (None, ctypes.c_void_p),
    "nft_ctx_buffer_output": (ctypes.c_int, ctypes.c_void_p),
    "nft_ctx_buffer_error": (ctypes.c_int, ctypes.c_void_p),
    "nft_ctx_output_set_flags": (None, ctypes.c_void_p, ctypes.c_uint),
    "nft_run_cmd_from_buffer": (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p),
    "nft_ctx_get_output_buffer": (ctypes.c_char_p, ctypes.c_void_p),
    "nft_ctx_get_error_buffer": (ctypes.c_char_p, ctypes.c_void_p),
}
_one_at_a_time = threading.Lock()  # the library keeps its list of links for all contexts


def run(script: str, what: str, *, as_json: bool = False) -> str:
    """Does what a script says, all of it or nothing, in the network namespace of the calling thread; returns what nft
    writes.

    Args:
        what: what it is for, as it stands behind "cannot".

    Raises:
        Unsupported: libnftables is not installed.
        Unavailable: nft refuses the script.
    """
    call = _library(what)
    with _one_at_a_time:
        context = call["nft_ctx_new"](0)
        try:
            call["nft_ctx_buffer_output"](context)
            call["nft_ctx_buffer_error"](context)
            if as_json:
                call["nft_ctx_output_set_flags"](context, JSON)
            if call["nft_run_cmd_from_buffer"](context, script.encode()):
                said = call["nft_ctx_get_error_buffer"](context).decode(errors="replace").strip().splitlines()
                raise Unavailable(f"cannot {what}: nft: {said[0] if said else 'no reason given'}")
            return str(call["nft_ctx_get_output_buffer"](context).decode())
        finally:
            call["nft_ctx_free"](context)


def _library(what: str) -> dict[str, Callable[..., Any]]:
    try:
        return _load()
    except OSError as error:
        raise Unsupported(f"cannot {what}: {LIBRARY} is not installed: apt install nftables") from error


@cache
def _load() -> dict[str, Callable[..., Any]]:
    library, found = ctypes.CDLL(LIBRARY), {}
    for name, (returned, *taken) in SIGNATURES.items():
        found[name] = getattr(library, name)
        found[name].restype, found[name].argtypes = returned, taken
    return found
