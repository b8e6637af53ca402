"""What stands between a lab and its systems, each a process: a forward proxy, a SOCKS proxy, a TLS front.

    python between.py forward [--auth USER:PASSWORD] [--refuse STATUS] [--tls PEM] [--host NAME=PORT …]
    python between.py socks [--auth USER:PASSWORD] [--versions 45] [--host NAME=PORT …]
    python between.py front --tls PEM --to PORT …

Prints its port (a front one for each that it leads to), then one line of JSON for each request or connection: what was
asked for, and the two ports of what it opened (`out` its own, `to` the other's). A NAME is reachable through the proxy
alone. A front translates the addresses in what it carries: as its own have four digits, the length stays the same.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import random
import socket
import ssl
import struct
import sys
from asyncio import StreamReader, StreamWriter
from typing import Any
from urllib.parse import urlsplit

V4, NAME, V6 = 1, 3, 4  # SOCKS5 address types
LONGEST_HEAD = 64 * 1024


def tell(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def copy(reader: StreamReader, writer: StreamWriter, words: dict[bytes, bytes]) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(1 << 18):
            for word, other in words.items():
                data = data.replace(word, other)
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
        writer.write_eof() if writer.can_write_eof() else writer.close()


async def join(
    ours: tuple[StreamReader, StreamWriter],
    theirs: tuple[StreamReader, StreamWriter],
    words: dict[bytes, bytes] | None = None,
) -> None:
    """Carry bytes both ways until both ends are done; `words` of theirs are others for us."""
    words = words or {}
    there = asyncio.create_task(copy(ours[0], theirs[1], {other: word for word, other in words.items()}))
    back = asyncio.create_task(copy(theirs[0], ours[1], words))
    await back  # the answer's end is the connection's end
    there.cancel()
    theirs[1].close()


class Between:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.hosts = {name: int(port) for name, _, port in (pair.partition("=") for pair in options.host)}
        self.tasks: set[asyncio.Task[Any] | None] = set()
        self.leads: dict[int, int] = {}  # own port → the one behind it

    async def reach(self, host: str, port: int) -> tuple[StreamReader, StreamWriter]:
        if host in self.hosts:
            host, port = "127.0.0.1", self.hosts[host]
        return await asyncio.open_connection(host, port, limit=1 << 18)

    def ports(self, there: tuple[StreamReader, StreamWriter]) -> dict[str, int]:
        return {
            "out": there[1].get_extra_info("sockname")[1],
            "to": there[1].get_extra_info("peername")[1],
        }

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        self.tasks.add(task)  # the loop itself would let go of it
        try:
            await getattr(self, self.options.kind)(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            tell(failed=repr(error))
        finally:
            self.tasks.discard(task)
            writer.close()

    # -- a forward proxy -----------------------------------------------------------------------------------

    async def forward(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One request a connection: what is left of the connection is the body and the answer."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        (method, target, version), *lines = (line.split(" ", 2) for line in head.rstrip().split("\r\n"))
        fields = [" ".join(line) for line in lines]
        given = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        if self.options.auth:
            wanted = "Basic " + base64.b64encode(self.options.auth.encode()).decode()
            if given.get("proxy-authorization") != wanted:
                return await self.answer(writer, 407, "Proxy Authentication Required", method, target)
        if self.options.refuse:
            return await self.answer(writer, self.options.refuse, "Refused", method, target)
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            there = await self.reach(host.strip("[]"), int(port))
            tell(method=method, target=target, **self.ports(there))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            return await join((reader, writer), there)
        parts = urlsplit(target)
        there = await self.reach(parts.hostname or "", parts.port or 80)
        tell(method=method, target=f"{parts.netloc}{parts.path}", **self.ports(there))
        kept = [field for field in fields if not field.lower().startswith(("proxy-", "connection:"))]
        path = parts._replace(scheme="", netloc="").geturl() or "/"
        there[1].write(
            "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "\r\n"]).encode("latin-1")
        )
        return await join((reader, writer), there)

    async def answer(self, writer: StreamWriter, status: int, reason: str, method: str, target: str) -> None:
        tell(method=method, target=target.partition("?")[0], refused=status)
        extra = 'Proxy-Authenticate: Basic realm="the institute"\r\n' if status == 407 else ""
        page = "<html>The proxy of the institute.</html>"
        writer.write(
            f"HTTP/1.1 {status} {reason}\r\n{extra}Content-Type: text/html\r\nConnection: close\r\n"
            f"Content-Length: {len(page)}\r\n\r\n{page}".encode()
        )
        await writer.drain()

    # -- a SOCKS proxy -------------------------------------------------------------------------------------

    async def socks(self, reader: StreamReader, writer: StreamWriter) -> None:
        version = (await reader.readexactly(1))[0]
        if str(version) not in self.options.versions:
            tell(refused=version)
            return None
        return await (self.socks4 if version == 4 else self.socks5)(reader, writer)

    async def socks4(self, reader: StreamReader, writer: StreamWriter) -> None:
        _, port, address = struct.unpack("!BH4s", await reader.readexactly(7))
        user = (await reader.readuntil(b"\0"))[:-1]
        host, named = ".".join(map(str, address)), address[:3] == b"\0\0\0" and address[3]
        if named:
            host = (await reader.readuntil(b"\0"))[:-1].decode()
        if self.options.auth and user.decode() != self.options.auth.partition(":")[0]:
            writer.write(b"\0\x5d" + bytes(6))
            return tell(refused=4)
        there = await self.reach(host, port)
        tell(version=4, host=host, port=port, named=bool(named), **self.ports(there))
        writer.write(b"\0\x5a" + bytes(6))
        return await join((reader, writer), there)

    async def socks5(self, reader: StreamReader, writer: StreamWriter) -> None:
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        wanted = 2 if self.options.auth else 0
        writer.write(bytes([5, wanted if wanted in methods else 0xFF]))
        if wanted not in methods:
            return tell(refused=5)
        if wanted == 2:
            await reader.readexactly(1)
            user = await reader.readexactly((await reader.readexactly(1))[0])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            right = user + b":" + password == self.options.auth.encode()
            writer.write(bytes([1, 0 if right else 1]))
            if not right:
                return tell(refused=5)
        kind = (await reader.readexactly(4))[3]
        size = {V4: 4, V6: 16, NAME: 0}[kind] or (await reader.readexactly(1))[0]
        address, (port,) = await reader.readexactly(size), struct.unpack("!H", await reader.readexactly(2))
        if kind == V4:
            host = ".".join(map(str, address))
        else:
            host = (
                address.decode()
                if kind == NAME
                else ":".join(f"{address[i] << 8 | address[i + 1]:x}" for i in range(0, 16, 2))
            )
        try:
            there = await self.reach(host, port)
        except OSError:
            writer.write(b"\5\5\0\1" + bytes(6))
            return tell(version=5, host=host, port=port, failed="unreachable")
        tell(version=5, host=host, port=port, named=kind == NAME, **self.ports(there))
        writer.write(b"\5\0\0\1" + bytes(6))
        return await join((reader, writer), there)

    # -- a TLS front ---------------------------------------------------------------------------------------

    async def front(self, reader: StreamReader, writer: StreamWriter) -> None:
        there = await self.reach("127.0.0.1", self.leads[writer.get_extra_info("sockname")[1]])
        tell(came=writer.get_extra_info("peername")[1], **self.ports(there))
        # … and the hosts in heads, which some signatures contain.
        hosts = {
            f"{field}: 127.0.0.1:{to}\r\n".encode(): f"{field}: localhost:{own}\r\n".encode()
            for field in ("Host", "host")
            for own, to in self.leads.items()
        }
        words = hosts | {
            f"http://127.0.0.1:{to}".encode(): f"https://localhost:{own}".encode() for own, to in self.leads.items()
        }
        await join((reader, writer), there, words)


def listener(digits: int) -> socket.socket:
    """Return a listening socket with a port of so many digits."""
    while True:
        found = socket.socket()
        try:
            found.bind(("127.0.0.1", random.randrange(1100, 10_000) if digits == 4 else 0))
        except OSError:
            found.close()
        else:
            return found


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("forward", "socks", "front"))
    parser.add_argument("--auth", default="")
    parser.add_argument("--refuse", type=int, default=0)
    parser.add_argument("--versions", default="45")
    parser.add_argument("--tls", default="")
    parser.add_argument("--to", type=int, action="append", default=[])
    parser.add_argument("--host", action="append", default=[])
    options = parser.parse_args()
    context = None
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls)
    between = Between(options)
    listeners = [listener(4 if options.to else 5) for _ in options.to or [0]]
    between.leads = {sock.getsockname()[1]: to for sock, to in zip(listeners, options.to, strict=False)}
    for sock in listeners:
        await asyncio.start_server(between.serve, sock=sock, ssl=context, limit=LONGEST_HEAD)
    tell(ports=[sock.getsockname()[1] for sock in listeners])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
