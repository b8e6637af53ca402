"""The bound of uploads: a multipart upload over some connections, each part hashed and sent once, and nothing else.

Prints its seconds, without those in which the interpreter starts.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import time
from pathlib import Path

import httpx

PART = 8 * 1024 * 1024


async def upload(api: str, record: str, source: Path, name: str, connections: int) -> None:
    limits, free = httpx.Limits(max_connections=connections), asyncio.Semaphore(connections)
    async with httpx.AsyncClient(base_url=f"{api}/v1pre3/", timeout=120, limits=limits) as client:

        async def send(number: int, data: bytes) -> None:
            try:
                digest = await asyncio.to_thread(lambda: base64.b64encode(hashlib.md5(data).digest()).decode())
                answer = await client.put(f"{made}/parts/{number}", content=data, headers={"Content-MD5": digest})
                answer.raise_for_status()
            finally:
                free.release()

        answer = await client.post(f"appresults/{record}/files", params={"name": name, "multipart": "true"})
        made = f"files/{answer.raise_for_status().json()['Response']['Id']}"
        with source.open("rb") as file:
            async with asyncio.TaskGroup() as group:
                for number in range(1, -(-source.stat().st_size // PART) + 1):
                    await free.acquire()
                    group.create_task(send(number, file.read(PART)))
        (await client.post(made, params={"uploadstatus": "complete"})).raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--api", required=True)
    parser.add_argument("--record", required=True)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("source", type=Path)
    parser.add_argument("name")
    given = parser.parse_args()
    began = time.perf_counter()
    asyncio.run(upload(given.api, given.record, given.source, given.name, given.connections))
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
