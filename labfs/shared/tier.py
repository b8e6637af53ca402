"""The connection to the store that machines share, and its circuit breaker: one that fails is left alone for a while.

Every call may raise Lost, and every caller then goes on as if there were no store. Calls run in threads, since the
store's own library has no interface to trio; a call that is abandoned ends by the timeout of its socket.

Tests: mount/test_shared.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from labfs.errors import ConfigError, ended, sentence
from labfs.shared.keys import PREFIX
from labfs.shared.where import Where

if TYPE_CHECKING:
    import redis

log = logging.getLogger(__name__)

TIMEOUT_S = 0.5  # for a connection, and for each piece of an answer
CALL_S = 4.0  # for a whole answer, which may be some MiB on a line that is shared
FIRST_REST_S, LONGEST_REST_S = 5.0, 60.0
THREADS = 16
WAITING = 256  # calls that nobody waits for, at most
POSTERS = 4  # tasks that make these calls

Argument = str | bytes | int | float
Command = Sequence[Argument]


class Lost(Exception):
    """The store does not answer, or was left alone since it did not: go on without it."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, which the store runs as one step."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Post:
    """A call that nobody waits for; what is callable is called in a thread, `done` with whether the call was made."""

    script: Script
    keys: Sequence[str]
    arguments: Callable[[], Sequence[Argument]]
    before: Callable[[], Sequence[Command]] = tuple
    turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext  # to be held meanwhile
    done: Callable[[bool], None] | None = None


# What a store that is full answers, or one that may only be read, is told by a write alone.
WRITTEN = Script("redis.call('SET', KEYS[1], '', 'PX', 1000)")


class Tier:
    """The store at `where`. `run` has to run meanwhile. Raises ConfigError where its library is missing."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self.trouble: str | None = None  # why it is left alone; None while it is used
        self.since_s: float | None = None  # of the trouble, in seconds since 1970
        self._rest_s = FIRST_REST_S
        self._failed = trio.Event()
        self._client = _client(where)
        self._threads = trio.CapacityLimiter(THREADS)
        self._later, self._posts = trio.open_memory_channel[Post](WAITING)

    async def call(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument] | Callable[[], Sequence[Argument]] = (),
        before: Callable[[], Sequence[Command]] = tuple,
        read: Callable[[list[Any]], Any] = lambda answers: answers[-1],
    ) -> Any:
        """Run commands and then a script as one step; return what `read` makes of their answers. Raises Lost.

        Blocks go by commands: through a script a block of 1 MiB costs the store 1.5 ms, and by a command a tenth of it.
        """
        if self.trouble is not None:
            raise Lost

        def work() -> Any:
            given = arguments() if callable(arguments) else arguments
            return read(self._run(script, keys, given, before()))

        return await self._made(work)

    def _run(
        self, script: Script, keys: Sequence[str], given: Sequence[Argument], before: Sequence[Command]
    ) -> list[Any]:
        from redis.exceptions import NoScriptError

        while True:
            with self._client.pipeline(transaction=bool(before)) as steps:
                for command in before:
                    steps.execute_command(*command)  # type: ignore[no-untyped-call]
                steps.evalsha(script.digest, len(keys), *keys, *given)
                try:
                    return list(steps.execute())
                except NoScriptError:  # the store was started just now
                    self._client.script_load(script.text)

    def later(self, post: Post) -> bool:
        """Make a call in the background; false if too many wait already, or the store is left alone."""
        if self.trouble is not None:
            return False
        try:
            self._later.send_nowait(post)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False
        return True

    async def run(self) -> None:
        """Make the calls that nobody waits for, and look whether a store that failed is back."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(POSTERS):
                    nursery.start_soon(self._post_all, self._posts.clone())
                nursery.start_soon(self._return)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + TIMEOUT_S):
                await self._post_last()
            self.close()

    async def write(self) -> float:
        """Write to the store; return how long it takes to answer, in seconds. Raises Lost."""
        began = time.monotonic()
        await self._made(lambda: self._run(WRITTEN, [f"{PREFIX}written"], (), ()))
        return time.monotonic() - began

    def close(self) -> None:
        self._client.close()

    async def _post_all(self, posts: trio.MemoryReceiveChannel[Post]) -> None:
        async for post in posts:
            made = True
            try:
                async with post.turn():
                    await self.call(post.script, post.keys, post.arguments, post.before)
            except Lost:
                made = False
            if post.done is not None:
                post.done(made)

    async def _post_last(self) -> None:
        """Make the calls that wait still, such as those that end leases, unless the store is lost."""
        with suppress(trio.WouldBlock, Lost):
            while True:
                post = self._posts.receive_nowait()
                await self.call(post.script, post.keys, post.arguments, post.before)

    async def _return(self) -> None:
        while True:
            await self._failed.wait()
            await trio.sleep(self._rest_s)
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
            try:
                await self.write()
            except Lost:
                continue
            self.trouble, self.since_s, self._rest_s = None, None, FIRST_REST_S
            self._failed = trio.Event()
            log.info("The shared tier at %s is back.", self.where.shown)

    async def _made(self, work: Callable[[], Any]) -> Any:
        try:
            with trio.fail_after(CALL_S):
                return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
        except Exception as error:
            self._fail(_reason(error))
            raise Lost from error

    def _fail(self, reason: str) -> None:
        if self.trouble is None:
            log.warning("The shared tier at %s is left alone: %s labfs goes on without it.", self.where.shown, reason)
            self.since_s = time.time()
        self.trouble = reason
        self._failed.set()


def _client(where: Where) -> redis.Redis:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.credentials import CredentialProvider
        from redis.retry import Retry
    except ImportError:
        raise ConfigError("The section shared needs a library more: pip install 'labfs[shared]'.") from None

    class Credentials(CredentialProvider):
        def get_credentials(self) -> tuple[str] | tuple[str, str]:
            """Return what a new connection signs in with, read anew."""
            password = where.password() if where.password is not None else ""
            return (where.username, password) if where.username else (password,)

    more: dict[str, Any] = {"credential_provider": Credentials()} if where.password is not None else {}
    if where.url.startswith("rediss:") and where.ca:
        more["ssl_ca_certs"] = where.ca
    times = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
    # Version 2 of the protocol, since some proxies know no other; no retries, since the breaker hears of each failure.
    return redis.Redis.from_url(where.url, protocol=2, retry=Retry(NoBackoff(), 0), **times, **more)


def _reason(error: Exception) -> str:
    """Say what is wrong with the store, without a text of its library's that may quote what was sent."""
    import redis

    match error:
        case trio.TooSlowError() | redis.TimeoutError():
            return "it does not answer in time."
        case redis.AuthenticationError() | redis.exceptions.NoPermissionError():
            return "it refuses the user name or the password; see the section shared of the configuration."
        case redis.ConnectionError():
            return "it cannot be reached."
        case redis.exceptions.OutOfMemoryError():
            return "it is full (maxmemory)."
        case redis.ResponseError():
            return ended(f"it refuses what labfs asks ({str(error).partition(' ')[0]})")
    return sentence(error)
