"""A directory in each system, one of the desk, and what the programs need: libraries, a web server, a display."""

from __future__ import annotations

import functools
import http.server
import os
import random
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import five_stage
import pytest
from places import SITES, Place
from stage import Mount, Sandbox, run

SCIENCE = ("pandas==3.1.1", "numpy==2.4.6", "h5py==3.16.0")
OFFICE = ("PySide6-Essentials==6.12.0", "jupyter-server==2.21.1")  # Qt, and what saves for JupyterLab
ENGINES = (
    "pandas==3.1.1", "numpy==2.4.6", "h5py==3.16.0", "pyarrow==26.0.1", "zarr==3.1.6", "duckdb==2.0.1",
    "dask[dataframe]==2026.8.0",
)  # fmt: skip
CLUSTERS = ("dask[distributed]==2026.8.0", "ray==2.60.0")
ROOT = Path(__file__).parents[2]
NOISE = random.Random(7).randbytes(300_000)


@pytest.fixture(scope="module")
def lab(running: Sandbox, drive: Mount) -> Iterator[five_stage.Lab]:
    with five_stage.opened(running) as made:
        drive.refresh()
        yield made


@pytest.fixture(params=SITES)
def place(request: pytest.FixtureRequest, lab: five_stage.Lab, drive: Mount) -> Place:
    return Place(lab, request.param, drive.path / lab.places[request.param])


def environment(*packages: str) -> Path:
    """The interpreter of an environment with these packages, made once and kept for later runs."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labfs-tests" / "-".join(packages)
    if not (home / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True, timeout=100)
        pip = [home / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True, timeout=500)
        (home / "complete").touch()
    return home / "bin" / "python"


@pytest.fixture(scope="session")
def python() -> Path:
    """An interpreter with the libraries of science."""
    return environment(*SCIENCE)


@pytest.fixture(scope="session")
def office() -> Path:
    """An interpreter with Qt and Jupyter."""
    return environment(*OFFICE)


@pytest.fixture(scope="session")
def engines() -> Path:
    """An interpreter with what reads and writes by fsspec, and this checkout as `labfs[fsspec]`: without pyfuse3."""
    made = environment(*ENGINES)
    pip = [made, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-e", f"{ROOT}[fsspec]"]
    subprocess.run(pip, check=True, timeout=300)
    return made


@pytest.fixture(scope="session")
def clusters() -> Path:
    """An interpreter with what spreads jobs over machines, and this checkout as `labfs[fsspec,shared]`."""
    made = environment(*CLUSTERS)
    pip = [made, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-e", f"{ROOT}[fsspec,shared]"]
    subprocess.run(pip, check=True, timeout=300)
    return made


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A local directory with what goes into the mount."""
    (tmp_path / "big.bin").write_bytes(NOISE)
    (tmp_path / "text.txt").write_text("one\n")
    run("tar cf t.tar big.bin text.txt; head -c 100000 big.bin > half.bin", tmp_path)
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("unzipped.txt", "one\n" * 100)
    return tmp_path


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a directory, from the first byte that is asked for."""

    def send_head(self) -> Any:
        start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0]
        path = Path(self.translate_path(self.path))
        data = path.read_bytes()
        self.send_response(206 if int(start) else 200)
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - int(start)))
        self.end_headers()
        opened = path.open("rb")
        opened.seek(int(start))
        return opened

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def web(desk: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(desk)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def screen() -> Iterator[str]:
    """A display without a screen."""
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1024x768x24"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with open(reading) as told:
        number = told.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait(10)
