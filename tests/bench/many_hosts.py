"""Hosts that are none: one process answers for the agents of many, and their engines list what a real one lists."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys

HEAD = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


async def main() -> None:
    """Serve until standard input ends: an object of ports with what is listed there, and the certificate's files."""
    config = json.loads(sys.stdin.readline())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(config["cert"], config["key"])
    for port, listed in config["ports"].items():
        body = json.dumps(listed).encode()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes = body) -> None:
            try:
                while head := await reader.readuntil(b"\r\n\r\n"):
                    found = body if b"/containers/json" in head else b"[]"
                    writer.write(HEAD.format(len(found)).encode() + found)
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        await asyncio.start_server(serve, config["address"], int(port), ssl=context)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
