"""What reads and writes by fsspec, for real and without a mount: bytes from the sandbox, and a result that is saved there."""

from __future__ import annotations

import os
import subprocess
import textwrap
from pathlib import Path

import pytest
from stage import Sandbox

pytestmark = pytest.mark.timeout(300)

TABLE = "site,n\n" + "".join(f"{'ab'[number % 2]},{number}\n" for number in range(1000))
TOTAL = sum(range(1000))

# Each begins with `where`, the URL of a record with a table, in.csv, and ends with what it prints.
SCRIPTS = {
    "pandas": """
        import pandas
        frame = pandas.read_csv(f"{where}/in.csv")
        frame.to_csv(f"{where}/out.csv.gz", index=False)
        frame.to_parquet(f"{where}/out.parquet")
        print(pandas.read_csv(f"{where}/out.csv.gz").n.sum(), pandas.read_parquet(f"{where}/out.parquet").n.sum())
    """,
    "pyarrow": """
        import fsspec, pyarrow.csv, pyarrow.dataset as dataset
        files, path = fsspec.core.url_to_fs(where)
        with files.open(f"{path}/in.csv") as file:
            table = pyarrow.csv.read_csv(file)
        dataset.write_dataset(table, f"{path}/set", filesystem=files, format="parquet", partitioning=["site"])
        again = dataset.dataset(f"{path}/set", filesystem=files, partitioning=["site"])
        print(sum(again.to_table()["n"].to_pylist()), again.count_rows(filter=dataset.field("site") == "a"))
    """,
    "h5py": """
        import fsspec, h5py, numpy
        with fsspec.open(f"{where}/out.h5", "w+b") as raw, h5py.File(raw, "w") as file:
            file.create_dataset("n", data=numpy.arange(1000), chunks=(100,), compression="gzip")
        with fsspec.open(f"{where}/out.h5", "r+b") as raw, h5py.File(raw, "a") as file:
            file["more"] = [1]
        with fsspec.open(f"{where}/out.h5") as raw, h5py.File(raw) as file:
            print(file["n"][:].sum(), file["more"][0])
    """,
    "zarr": """
        import numpy, zarr
        array = zarr.create_array(f"{where}/out.zarr", shape=(1000,), chunks=(250,), dtype="i8")
        array[:] = numpy.arange(1000)
        again = zarr.open_array(f"{where}/out.zarr", mode="r")
        print(again[:].sum(), again[250:260].sum())
    """,
    "duckdb": """
        import duckdb, fsspec
        duckdb.register_filesystem(fsspec.filesystem("labfs"))
        duckdb.sql(f"COPY (SELECT * FROM read_csv('{where}/in.csv')) TO '{where}/out.parquet' (FORMAT parquet)")
        print(*duckdb.sql(f"SELECT sum(n)::BIGINT, count(*) FROM '{where}/out.parquet'").fetchall()[0])
    """,
    "dask": """
        import dask.dataframe, fsspec
        if __name__ == "__main__":
            for number in range(4):
                fsspec.filesystem("labfs").cp(f"{where}/in.csv", f"{where}/part-{number}.csv")
            frame = dask.dataframe.read_csv(f"{where}/part-*.csv")
            sums = frame.groupby("site").n.sum().compute(scheduler="processes", num_workers=2)
            frame.to_csv(f"{where}/out-*.csv", index=False, compute_kwargs={"scheduler": "processes"})
            again = dask.dataframe.read_csv(f"{where}/out-*.csv").n.sum().compute()
            print(sums.sum(), again)
    """,
}
PRINTED = {
    "pandas": f"{TOTAL} {TOTAL}", "pyarrow": f"{TOTAL} 500", "h5py": f"{TOTAL} 1", "zarr": f"{TOTAL} {sum(range(250, 260))}",
    "duckdb": f"{TOTAL} 1000", "dask": f"{4 * TOTAL} {4 * TOTAL}",
}  # fmt: skip


@pytest.mark.parametrize("engine", SCRIPTS)
def test_it_reads_and_writes(engine: str, engines: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    record = sandbox.fresh()
    record.put("in.csv", TABLE.encode())
    where = f"labfs://{record.at(Path())}"
    script = tmp_path / "script.py"
    script.write_text(f"where = {where!r}\n{textwrap.dedent(SCRIPTS[engine])}")
    own = {"LABFS_CONFIG": str(sandbox.config), "LABFS_STATE_DIR": str(tmp_path / "state"),
           "LABFS_CACHE_DIR": str(tmp_path / "cache")}  # fmt: skip
    done = subprocess.run([engines, script], env={**os.environ, **own}, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, f"{PRINTED[engine]}\n"), done.stderr
    assert any(path.startswith(("out", "set")) for path in record.stored)
