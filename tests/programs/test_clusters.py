"""Dask and Ray on four workers, without a mount: they count the reads of a FASTQ folder and write the result back.

Each worker stands for a machine: it has its own state and caches, and shares a Redis with the others.
"""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import redcap_stage
import shared_stage
from shared_stage import Store
from stage import Sandbox, until

pytestmark = pytest.mark.timeout(600)

FILES, READS = 4, 3000
# What a worker does: to count, after which it waits until all the others are there; and to ask a server that limits the rate.
WORK = '''
    import gzip, os, tempfile, time

    def alone():
        """Be a machine of one's own, once a process."""
        if "LABFS_ALONE" not in os.environ:
            os.environ["LABFS_ALONE"] = own = tempfile.mkdtemp(dir=base)
            os.environ["LABFS_STATE_DIR"], os.environ["LABFS_CACHE_DIR"] = f"{own}/state", f"{own}/cache"

    def counted(path):
        alone()
        import fsspec
        with fsspec.open(path, "rb") as raw, gzip.open(raw) as file:
            return os.getpid(), sum(1 for _ in file) // 4

    def asked(number):
        alone()
        import fsspec
        return len(fsspec.filesystem("labfs").ls("redcap/biobank", refresh=True))
'''
SCRIPTS = {
    "dask": """
        from dask.distributed import Client, LocalCluster
        if __name__ == "__main__":
            with LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
                workers = sorted(client.scheduler_info()["workers"])
                jobs = [client.submit(counted, path, workers=[w], pure=False) for w in workers for path in paths]
                found = client.gather(jobs)
                client.gather([client.submit(asked, n, workers=[w], pure=False) for w in workers for n in range(2)])
                client.submit(written, sum(n for _, n in found), workers=[workers[2]]).result()
            print(len({pid for pid, _ in found}), sum(n for _, n in found))
    """,
    "ray": """
        import ray
        if __name__ == "__main__":
            ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)

            @ray.remote(num_cpus=1)
            class Worker:
                def counted(self, path): return counted(path)
                def asked(self, number): return asked(number)
                def written(self, total): return written(total)

            workers = [Worker.remote() for _ in range(4)]
            found = ray.get([worker.counted.remote(path) for worker in workers for path in paths])
            ray.get([worker.asked.remote(n) for worker in workers for n in range(2)])
            ray.get(workers[2].written.remote(sum(n for _, n in found)))
            print(len({pid for pid, _ in found}), sum(n for _, n in found))
            ray.shutdown()
    """,
}
WRITTEN = """
    def written(total):
        alone()
        import fsspec
        with fsspec.open(result, "w") as file:
            file.write(f"{total}\\n")
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with shared_stage.store(tmp_path) as made:
        yield made


def reads(seed: int) -> bytes:
    """Return gzipped FASTQ that hardly shrinks, as real qualities do not."""
    noise = random.Random(seed)
    lines = (
        f"@R{seed}.{n}\n{''.join(noise.choices('ACGT', k=150))}\n+\n{''.join(map(chr, noise.choices(range(33, 74), k=150)))}\n"
        for n in range(READS)
    )
    return gzip.compress("".join(lines).encode(), 6)


@pytest.mark.parametrize("engine", SCRIPTS)
def test_a_job_reads_each_block_once_and_keeps_the_pace(
    engine: str, clusters: Path, sandbox: Sandbox, store: Store, tmp_path: Path
) -> None:
    record, redcap = sandbox.fresh(), redcap_stage.Redcap(sandbox)
    redcap.http.close()
    files = {f"{number}.fastq.gz": reads(number) for number in range(FILES)}
    for name, data in files.items():
        record.put(name, data)
    where = f"labfs://{record.at(Path())}"
    given = f"base = {str(tmp_path)!r}\npaths = {[f'{where}/{name}' for name in files]!r}\nresult = {where + '/count.txt'!r}\n"
    script = tmp_path / "script.py"
    script.write_text(given + "".join(map(textwrap.dedent, (WORK, WRITTEN, SCRIPTS[engine]))))
    config = shared_stage.configured(sandbox.config, tmp_path, store.url)
    sandbox.reset()
    env = {**os.environ, "LABFS_CONFIG": str(config), "RAY_TMPDIR": "/tmp"}
    done = subprocess.run([clusters, script], env=env, capture_output=True, text=True, timeout=400)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, [f"4 {4 * FILES * READS}"]), done.stderr
    until(lambda: record.stored.get("count.txt") == f"{4 * FILES * READS}\n".encode())
    assert sandbox.report()["bytes_out"]["blobs"] == sum(map(len, files.values())), "each block came once"
    times = sorted(row["at"] for row in sandbox.log() if row["service"] == "redcap")
    assert len(times) >= 8
    assert min(late - early for early, late in zip(times, times[5:], strict=False)) >= 1.0
