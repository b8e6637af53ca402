"""A far network: a relay of TCP that adds a round-trip time, and has a rate for each connection and direction.

A byte arrives half a round trip after it was sent, in order; a connection costs one round trip before its first byte
moves, as the handshake does. The rate holds for each connection on its own, as it does behind a load balancer.
"""

from __future__ import annotations

import argparse
import math
from functools import partial

import trio

CHUNK = 64 * 1024  # bytes that are read at once
SLOTS = 4096  # chunks under way: far more than bandwidth × delay, so that the delay alone never slows
LATE_S = 0.02  # of being late that a connection may make good, so that a timer's jitter does not cost rate


class Relay:
    """The way to one port of this machine."""

    def __init__(self, target: int, round_trip_s: float, bytes_per_s: float) -> None:
        self._target = target
        self._round_trip_s = round_trip_s
        self._bytes_per_s = bytes_per_s

    async def connect(self, client: trio.SocketStream) -> None:
        try:
            await trio.sleep(self._round_trip_s)
            server = await trio.open_tcp_stream("127.0.0.1", self._target)
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, client, server)
                nursery.start_soon(self._carry, server, client)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # one side is gone, and now the other

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        into, out = trio.open_memory_channel[tuple[float, bytes]](SLOTS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take, source, into)
            nursery.start_soon(self._give, out, sink)

    async def _take(self, source: trio.SocketStream, into: trio.MemorySendChannel[tuple[float, bytes]]) -> None:
        """Read no faster than the rate; note when each chunk is due at the other end."""
        clock = trio.current_time()
        async with into:
            while chunk := await source.receive_some(CHUNK):
                clock = max(clock, trio.current_time() - LATE_S) + len(chunk) / self._bytes_per_s
                await trio.sleep_until(clock)
                await into.send((trio.current_time() + self._round_trip_s / 2, chunk))

    async def _give(self, out: trio.MemoryReceiveChannel[tuple[float, bytes]], sink: trio.SocketStream) -> None:
        async for due, chunk in out:
            await trio.sleep_until(due)
            await sink.send_all(chunk)
        await sink.send_eof()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--target", type=int, required=True)
    parser.add_argument("--rtt-ms", type=float, default=40)
    parser.add_argument("--mbit", type=float, default=math.inf, help="for each connection and direction")
    given = parser.parse_args()
    relay = Relay(given.target, given.rtt_ms / 1000, given.mbit * 125_000)
    trio.run(partial(trio.serve_tcp, relay.connect, given.port, host="127.0.0.1"))


if __name__ == "__main__":
    main()
