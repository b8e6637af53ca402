"""A trace has what tasks and their threads log for one path, and nothing else."""

from __future__ import annotations

import logging

import trio

from labfs.errors import secrecy, tracing

log = logging.getLogger("labfs.test_tracing")


async def test_a_trace_follows_tasks_and_threads_of_one_path() -> None:
    ours = logging.getLogger("labfs")
    before = ours.level
    ours.setLevel(logging.DEBUG)
    secrecy.know("a token of mine")
    try:
        with tracing.tracing("/hub/p", ours) as trace:
            async with trio.open_nursery() as nursery:
                with tracing.serving("/hub/p/f"):
                    nursery.start_soon(trio.to_thread.run_sync, log.debug, "in a thread, with a token of mine")
                with tracing.serving("/hub/pq"):
                    nursery.start_soon(trio.to_thread.run_sync, log.debug, "beside it")
                with tracing.serving("/hub/x → /hub/p/y"):
                    log.debug("a rename into it")
            log.debug("for nobody")
            lines = sorted(line.partition(" ")[2] for line in trace.taken())
            assert lines == ["a rename into it", "in a thread, with …"]
            with tracing.serving("/hub/p") as followed:
                assert followed
                for number in range(tracing.KEPT + 5):
                    log.debug("%d", number)
            taken = trace.taken()
            assert (len(taken), taken[0]) == (tracing.KEPT + 1, "… 5 lines were too many, and are not shown.")
        assert not tracing.is_on()
    finally:
        ours.setLevel(before)
