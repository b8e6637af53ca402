"""What a hostile or broken server lists neither escapes, crashes, hangs nor hides a sibling."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import served
from stage import mounted, run

pytestmark = pytest.mark.mount


def scene(base: Path, name: str) -> Iterator[Path]:
    process, mountpoint = served.start(base, name)
    try:
        yield mountpoint
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()
            if mounted(mountpoint):
                subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from scene(tmp_path_factory.mktemp("hostile"), "hostile")


def test_every_name_is_shown_once_safely_and_opens(hostile: Path) -> None:
    box = hostile / "memory" / "box"
    shown = os.listdir(box)
    assert len(shown) == len(set(shown))
    assert all(name not in (".", "..", "") and "/" not in name and len(os.fsencode(name)) <= 255 for name in shown)
    assert not any(ord(letter) < 32 for name in shown for letter in name), "nothing that a terminal would obey"
    files = [name for name in shown if (box / name).is_file()]
    odd = [name for name in files if (box / name).stat().st_size == 3]
    assert len(odd) >= len(served.ODD_NAMES) - 1, "`.meta.json` is labfs's own name"
    for name in odd:
        assert (box / name).read_bytes() == b"odd", name
    assert (box / "ordinary").read_bytes() == b"an ordinary file"
    assert {"File", "file", "caf\u00e9", "cafe\u0301", "same", "orphan"} <= set(shown)
    assert len([name for name in shown if name.startswith("same")]) == 4, "three files and a folder"


def test_nothing_leads_out_of_the_tree(hostile: Path) -> None:
    done = run(f"cd '{hostile}' && timeout 60 find . -printf '%p\\n' | sort | uniq -d; ls '{hostile}/memory'")
    assert (done.stdout, done.stderr) == ("box\n", "")
    box = hostile / "memory" / "box"
    assert not (hostile / "etc").exists()
    found = run(f"find '{box}' -name 'in a folder*' | wc -l").stdout
    assert int(found) == 4, "and a fifth, too deep, under one long name"
    assert os.path.realpath(box / "%2E%2E") == str(box / "%2E%2E")


def test_sizes_and_dates_that_cannot_be_are_told_and_hide_nobody(hostile: Path) -> None:
    box = hostile / "memory" / "box"
    assert run(f"ls -la '{box}'").returncode == 0
    for name in ("huge", "negative"):
        done = run(f"cat '{box}/{name}'")
        assert done.returncode != 0
    assert (box / "dated").read_bytes() == b"odd"


def test_a_size_that_lies_is_an_error_or_as_long_as_it_says(hostile: Path) -> None:
    box = hostile / "memory" / "box"
    began = time.monotonic()
    done = run(f"timeout 60 head -c 100 '{box}/more'")
    assert "Input/output error" in done.stderr
    assert done.stdout == ""
    assert run(f"cat '{box}/less'").stdout == "0123", "what was listed is what is read"
    assert time.monotonic() - began < 20


def test_it_can_be_copied_and_compared(hostile: Path, tmp_path: Path) -> None:
    box = hostile / "memory" / "box"
    done = run(f"cd '{box}' && tar cf - --exclude=more --exclude=huge --exclude=negative . | tar xf - -C '{tmp_path}'")
    assert (done.returncode, done.stderr) == (0, "")
    done = run(f"diff -r -x more -x huge -x negative '{box}' '{tmp_path}'")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.timeout(400)
def test_a_very_long_list_is_read_while_another_site_answers(tmp_path: Path) -> None:
    name, count = ("million", 1_000_000) if os.environ.get("LABFS_SOAK") else ("many", 100_000)
    for mountpoint in scene(tmp_path, name):
        box, names = f"{mountpoint}/memory/box", tmp_path / "names"
        # A slow machine tells that the list is not whole yet, in time, and goes on with it.
        counting = f"until ls -f '{box}' > '{names}'; do sleep 1; done; wc -l < '{names}' > '{tmp_path}/count'"
        listing = subprocess.Popen(["timeout", "300", "bash", "-c", counting])
        slowest = 0.0
        while listing.poll() is None:
            began = time.monotonic()
            os.listdir(mountpoint / "calm" / "box")
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.05)
        assert int((tmp_path / "count").read_text()) == count + 2
        assert slowest < 8, f"the other site waited {slowest:.1f} s"
        assert (mountpoint / f"memory/box/reads {count - 1}.fastq").stat().st_size == count - 1
