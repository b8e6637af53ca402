"""The table of cases, in the order in which they run."""

from __future__ import annotations

from functools import partial

from bench.cases import growth, lists, reads, writes
from bench.measuring import Case

CASES = (
    Case("near", "cold sequential 1 GiB, near", partial(reads.near, times=1.8)),
    Case("near-user", "the same as an ordinary user", partial(reads.near, times=1.4), as_user=True),
    Case("at-once", "opened as soon as it is mounted", reads.at_once),
    Case("eight", "eight files of 128 MiB at once, sum", reads.eight),
    Case("far", "cold sequential 512 MiB, 40 ms, 400 Mbit/s a connection", reads.far),
    Case("far-random", "random 64 KiB, far, median", reads.far_random),
    Case("far-first", "first byte of a listed file, far", reads.far_first),
    Case("far-small", "1,000 files of 100 KiB in order, far", reads.far_small),
    Case("again", "warm re-read of 1 GiB", reads.again),
    Case("remount", "re-read of 1 GiB after a remount, near", partial(reads.remounted, mib=1024, is_far=False)),
    Case("far-remount", "re-read of 512 MiB after a remount, far", partial(reads.remounted, mib=512, is_far=True)),
    Case("upload", "upload of 1 GiB, near", partial(writes.upload, mib=1024, is_far=False, times=0.9)),
    Case("far-upload", "upload of 512 MiB, far", partial(writes.upload, mib=512, is_far=True, times=0.95)),
    Case("list", "ls -l of 100,000, cold", lists.listing),
    Case("first-name", "first name of 100,000", lists.first_name),
    Case("far-list", "ls -l of 100,000, far", lists.far_listing),
    Case("find", "find over 1,000,000 files in 1,000 records", lists.tree),
    Case("stream", "stream of 4 GiB", reads.stream),
    Case("growth-bytes", "time against 1, 2, 4, 8 GiB", growth.in_bytes),
    Case("growth-entries", "time against 1k, 10k, 100k entries", growth.in_entries),
)
