"""Several machines that share a store: turns, blocks, listings and leases; and a store that fails in every way."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import five_stage
import pytest
import redcap_stage
import redis
import shared_stage
import trio
import trustme
from shared_stage import Refused, Store, Worker, at_once
from stage import Folder, Mount, Sandbox, typed, until

from labfs.backends.basespace.backend import CAPABILITIES
from labfs.daemon.config import load
from labfs.errors import ConfigError
from labfs.shared.keys import Account
from labfs.shared.listings import Listings
from labfs.shared.tier import Tier
from labfs.shared.where import Where

MIB = 1024 * 1024
ROOM_MIB = 24


@pytest.fixture(scope="module")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with shared_stage.store(tmp_path_factory.mktemp("redis")) as made:
        yield made


@pytest.fixture(scope="module")
def machines(running: Sandbox, one_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Worker]]:
    base = tmp_path_factory.mktemp("machines")
    config = shared_stage.configured(running.config, base, one_store.url, ROOM_MIB)
    with shared_stage.workers(base, config, 4) as made:
        yield made


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[five_stage.Lab]:
    with five_stage.opened(running) as made:
        yield made


@pytest.fixture
def store(one_store: Store, machines: list[Worker]) -> Iterator[Store]:
    """The store, which is used by all machines when a test begins."""
    one_store.calm()
    at_once(machines, USED)
    yield one_store
    one_store.calm()


def crowded(times: list[float], count: int) -> float:
    """Return the shortest time in which more than `count` of these requests came, in seconds."""
    times = sorted(times)
    return min((late - early for early, late in zip(times, times[count:], strict=False)), default=float("inf"))


# -- turns -----------------------------------------------------------------------------------------------


def test_no_more_requests_in_a_second_than_one_machine_may_send(
    machines: list[Worker], store: Store, sandbox: Sandbox
) -> None:
    redcap = redcap_stage.Redcap(sandbox)
    redcap.record()
    redcap.http.close()
    sandbox.reset()
    at_once(machines, "result = [len(fs.ls('redcap/biobank', refresh=True)) for _ in range(3)]")
    times = [row["at"] for row in sandbox.log() if row["service"] == "redcap"]
    assert len(times) >= 12
    assert crowded(times, 5) >= 1.0


def test_no_more_requests_at_a_time_than_one_machine_may_send(
    machines: list[Worker], store: Store, sandbox: Sandbox
) -> None:
    paths = [str(sandbox.fresh().at(Path())) for _ in range(6)]
    sandbox.faults({"service": "basespace", "times": None, "action": "delay_s", "argument": 0.3})
    sandbox.reset()
    at_once(
        machines,
        """
        core = core_of()
        for asked in [core.submit(core.door.listing, path, True) for path in paths]:
            asked.result()
        """,
        paths=paths,
    )
    assert sandbox.report()["total"] >= 24
    assert sandbox.report()["most_at_once"]["basespace"] == CAPABILITIES.connections


# -- blocks ----------------------------------------------------------------------------------------------


@pytest.fixture
def record(sandbox: Sandbox, machines: list[Worker], store: Store) -> Folder:
    made = sandbox.fresh()
    at_once(machines, "fs.invalidate_cache(); said.clear()")
    return made


USED = "while core_of().share.tier.trouble: time.sleep(0.02)"
DIGEST = "import hashlib; result = hashlib.sha256(fs.cat_file(path)).hexdigest()"


def is_there(store: Store, count: int) -> None:
    """Wait until what was fetched is in the store, which is done in the background."""
    until(lambda: len(store.blocks) == count)


def bytes_out(sandbox: Sandbox) -> int:
    """Return how many bytes of files the sandbox has sent since the reset."""
    return int(sandbox.report()["bytes_out"].get("blobs", 0))


def test_each_block_is_fetched_once(machines: list[Worker], store: Store, record: Folder, sandbox: Sandbox) -> None:
    data = random.Random(5).randbytes(20 * MIB + 5)
    record.put("reads.fastq.gz", data)
    path = f"{record.at(Path())}/reads.fastq.gz"
    sandbox.reset()
    assert at_once(machines, DIGEST, path=path) == 4 * [hashlib.sha256(data).hexdigest()]
    assert bytes_out(sandbox) == len(data)
    is_there(store, 21)


def put(record: Folder, name: str, size: int) -> tuple[str, str]:
    """Save noise behind labfs's back; return its path and its digest."""
    data = random.Random(name).randbytes(size)
    record.put(name, data)
    return f"{record.at(Path())}/{name}", hashlib.sha256(data).hexdigest()


def test_the_store_holds_no_more_than_its_bound(machines: list[Worker], store: Store, record: Folder) -> None:
    paths = [put(record, f"part-{number}", 10 * MIB) for number in range(4)]
    for path, right in paths:
        assert machines[0].do(DIGEST, path=path) == right
    until(lambda: int(store.client.get("labfs:1:bytes") or 0) > (ROOM_MIB - 2) * MIB)
    stored = sum(store.client.strlen(key) for key in store.blocks)
    assert (ROOM_MIB - 2) * MIB < stored <= ROOM_MIB * MIB
    assert store.client.zcard("labfs:1:blocks") == len(store.blocks)
    assert [key for key in store.keys if store.client.ttl(key) < 0] == [], "everything goes by itself"
    assert machines[1].do(DIGEST, path=paths[0][0]) == paths[0][1], "also what has gone"


def test_nothing_in_the_keys_can_be_read(
    machines: list[Worker], store: Store, record: Folder, sandbox: Sandbox
) -> None:
    path, right = put(record, "consent of Jane Doe.pdf", MIB + 9)
    assert machines[0].do(DIGEST, path=path) == right
    is_there(store, 2)
    blocks = set(store.blocks)
    for key in store.keys:
        read = {b"string": store.client.get, b"zset": lambda key: store.client.zrange(key, 0, -1)}
        seen = [key, *([] if key in blocks else [read[store.client.type(key)](key)])]
        for word in ("Jane", "consent", record.name, record.record, sandbox.token, "basespace"):
            assert word.encode() not in repr(seen).encode()


# -- a store that fails ----------------------------------------------------------------------------------


def test_a_store_that_lies_is_not_believed(
    machines: list[Worker], store: Store, record: Folder, sandbox: Sandbox
) -> None:
    path, right = put(record, "lies", 6 * MIB)
    assert machines[0].do(DIGEST, path=path) == right
    is_there(store, 6)
    first, second, third, fourth, *others = sorted(store.blocks)
    store.client.setrange(first, 1000, b"\x00flipped")
    store.client.set(second, store.client.get(third))
    store.client.set(third, b"short")
    store.client.set(fourth, b"")
    assert machines[1].do(DIGEST, path=path) == right
    assert sum("damaged" in line for line in machines[1].do("result = said")) > 0
    until(lambda: [store.client.strlen(key) for key in store.blocks] == 6 * [MIB + 16])
    for key in others:
        store.client.delete(key)
        store.client.lpush(key, "of another type")
    sandbox.reset()
    assert machines[2].do(DIGEST, path=path) == right
    assert bytes_out(sandbox) > 0


@pytest.mark.parametrize("how", ["killed", "full", "slow", "restarted"])
def test_a_store_that_is_lost_while_files_are_read(
    how: str, machines: list[Worker], store: Store, record: Folder, sandbox: Sandbox
) -> None:
    files = [put(record, f"{how}-{number}", 3 * MIB) for number in range(4)]
    assert machines[0].do(DIGEST, path=files[0][0]) == files[0][1]
    match how:
        case "killed" | "restarted":
            store.kill()
        case "full":
            store.client.config_set("maxmemory", "1mb")
        case "slow":
            store.client.client_pause(4000)
    if how == "restarted":
        store.start()
    began = time.monotonic()
    for path, right in files:
        assert at_once(machines, DIGEST, path=path) == 4 * [right]
    assert time.monotonic() - began < 8.0
    if how != "restarted":
        said = at_once(machines, "result = list(said)")
        assert all(sum("is left alone" in line for line in lines) == 1 for lines in said), said
        store.calm()
        for worker in machines:
            until(lambda worker=worker: worker.do("result = core_of().share.tier.trouble") is None)
            assert sum("is back" in line for line in worker.do("result = said")) == 1
    path, right = put(record, f"{how}-after", 3 * MIB)
    at_once(machines, "fs.invalidate_cache()")
    sandbox.reset()
    assert at_once(machines, DIGEST, path=path) == 4 * [right]
    assert bytes_out(sandbox) == 3 * MIB, "it is used again"


def test_what_a_killed_machine_was_fetching_is_fetched_by_another(
    running: Sandbox, machines: list[Worker], store: Store, record: Folder, sandbox: Sandbox, tmp_path: Path
) -> None:
    path, right = put(record, "dying", 3 * MIB)
    config = shared_stage.configured(running.config, tmp_path, store.url, ROOM_MIB)
    sandbox.faults({"service": "blobs", "times": 1, "action": "stall", "argument": 1000})
    with shared_stage.workers(tmp_path, config, 1) as (dying,):
        dying.do("import labfs.shared.blocks; labfs.shared.blocks.LEASE_S = 1.0")
        dying.do("import threading; threading.Thread(target=lambda: fs.cat_file(path), daemon=True).start()", path=path)
        until(lambda: any(b":claim" in key for key in store.keys))
        dying.kill()
    began = time.monotonic()
    assert machines[0].do(DIGEST, path=path) == right
    assert time.monotonic() - began < 8.0


# -- leases ----------------------------------------------------------------------------------------------


def test_one_machine_writes_to_a_path_at_a_time(machines: list[Worker], store: Store, lab: five_stage.Lab) -> None:
    there = lab.places["clarity"]
    path, new = f"{there}/notes.txt", f"{there}/new.txt"
    lab.put("clarity", "notes.txt", b"old")
    at_once(machines, "fs.invalidate_cache()")
    one, other, third = machines[:3]
    for name in (path, new):
        one.do("kept['file'] = fs.open(name, 'wb'); kept['file'].write(b'first'); kept['file'].flush()", name=name)
        one.do("file = fs.open(name, 'r+b'); file.close()", name=name)
        for mode in ("wb", "ab") if name == new else ("wb", "ab", "r+b"):
            with pytest.raises(Refused, match=f"is being written by .+@.+ .process {one.process.pid}.") as caught:
                other.do("fs.open(name, mode)", name=name, mode=mode)
            assert caught.value.errno == errno.EBUSY
        assert other.do("result = len(fs.cat_file(name))", name=path) > 0, "it can be read"
        one.do("kept.pop('file').close()")
        until(lambda: not leases(store))
        other.do("fs.invalidate_cache(); file = fs.open(name, 'ab'); file.write(b'other'); file.close()", name=name)
    third.do("fs.invalidate_cache()")
    assert third.do("result = fs.cat_file(path).decode()", path=path) == "firstother"


def leases(store: Store) -> list[bytes]:
    return [key for key in store.keys if b":lease:" in key]


def test_a_lease_ends_with_its_process(
    running: Sandbox, machines: list[Worker], store: Store, record: Folder, tmp_path: Path
) -> None:
    path = f"{record.at(Path())}/dying.txt"
    config = shared_stage.configured(running.config, tmp_path, store.url, ROOM_MIB)
    with shared_stage.workers(tmp_path, config, 2) as dying:
        for worker in dying:
            worker.do("import labfs.shared.leases; labfs.shared.leases.LEASE_S = 1.0")
            worker.do("kept['file'] = fs.open(path, 'wb'); kept['file'].write(b'half')", path=path)
            with pytest.raises(Refused, match="is being written"):
                machines[0].do("fs.open(path, 'wb')", path=path)
            worker.kill() if worker is dying[0] else worker.end()
            until(lambda: not leases(store))
    machines[0].do("fs.invalidate_cache(); fs.pipe_file(path, b'whole')", path=path)
    assert record.stored["dying.txt"] == b"whole"


def test_a_save_waits_for_the_lease(machines: list[Worker], store: Store, record: Folder) -> None:
    path, _ = put(record, "waiting.txt", 100)
    one, other = machines[:2]
    for worker in (one, other):
        worker.do("fs.ls(path)", path=str(record.at(Path())))
    store.kill()
    one.do("kept['file'] = fs.open(path, 'wb'); kept['file'].write(b'mine')", path=path)
    store.start()
    at_once(machines, USED)
    other.do("kept['file'] = fs.open(path, 'r+b')", path=path)
    with pytest.raises(Refused, match="is being written") as caught:
        one.do("kept.pop('file').close()")
    assert caught.value.errno == errno.EBUSY
    own = {"LABFS_STATE_DIR": str(one.base / "state"), "LABFS_CACHE_DIR": str(one.base / "cache")}
    one.do("said.clear()")
    typed("outbox", "retry", env=own)
    until(lambda: any("could not be saved" in line for line in one.do("result = said")))
    assert record.stored["waiting.txt"] != b"mine"
    other.do("kept.pop('file').close()")
    until(lambda: not leases(store))
    typed("outbox", "retry", env=own)
    until(lambda: record.stored["waiting.txt"] == b"mine")


# -- listings --------------------------------------------------------------------------------------------

NAMES = "result = sorted(one['name'].rpartition('/')[2] for one in fs.ls(path, detail=True) if one['size'])"
LISTS = "GET /v1pre3/appresults/{id}/files"


def test_a_first_look_is_at_what_another_machine_has_listed(
    machines: list[Worker], store: Store, record: Folder, sandbox: Sandbox
) -> None:
    for number in range(3):
        put(record, f"f{number}", 10)
    there = str(record.at(Path()))
    sandbox.reset()
    for worker in machines:
        assert worker.do(NAMES, path=there) == ["f0", "f1", "f2"]
        assert worker.do("result = len(fs.cat_file(path))", path=f"{there}/f1") == 10
    assert sandbox.requests()[LISTS] == 1


def test_nobody_is_shown_a_listing_from_before_a_change(
    machines: list[Worker], store: Store, record: Folder, sandbox: Sandbox
) -> None:
    put(record, "old", 10)
    there = str(record.at(Path()))
    first, second, third, fourth = machines
    assert first.do(NAMES, path=there) == ["old"]
    second.do("fs.pipe_file(path, b'1')", path=f"{there}/new")
    assert third.do(NAMES, path=there) == ["new", "old"]
    put(record, "behind", 10)
    refresh = """
        core = core_of()
        async def asked(): core.door._vfs.refresh(await core.door.node(path))
        core.call(asked)
    """
    third.do(refresh, path=there)
    assert fourth.do(NAMES, path=there) == ["behind", "new", "old"]


def test_a_name_that_another_machine_did_not_see_is_asked_for(
    machines: list[Worker], store: Store, record: Folder
) -> None:
    put(record, "old", 10)
    there = str(record.at(Path()))
    assert machines[0].do(NAMES, path=there) == ["old"]
    put(record, "behind", 10)
    assert machines[1].do("result = len(fs.cat_file(path))", path=f"{there}/behind") == 10
    put(record, "more", 10)
    assert machines[2].do("fs.pipe_file(path, b'1'); result = len(fs.ls(there))", path=f"{there}/new", there=there) == 4


def test_what_was_removed_or_renamed_is_not_shown(machines: list[Worker], store: Store, lab: five_stage.Lab) -> None:
    first, second, third, fourth = machines
    there = str(lab.places["portal"])
    for name in ("a", "b"):
        lab.put("portal", name, b"bytes")
    assert first.do(NAMES, path=there) == ["a", "b"]
    second.do("fs.rm(path)", path=f"{there}/a")
    assert third.do(NAMES, path=there) == ["b"]
    second.do("fs.mv(path, new)", path=f"{there}/b", new=f"{there}/c")
    assert fourth.do(NAMES, path=there) == ["c"]


def test_a_listing_that_was_flipped_is_not_believed(machines: list[Worker], store: Store, record: Folder) -> None:
    put(record, "old", 10)
    there = str(record.at(Path()))
    before = set(store.keys)
    assert machines[0].do(NAMES, path=there) == ["old"]
    until(lambda: any(store.client.type(key) == b"string" for key in {*store.keys} - before))
    for key in {*store.keys} - before:
        if store.client.type(key) == b"string":
            store.client.setrange(key, 5, b"flipped")
    assert machines[1].do(NAMES, path=there) == ["old"]


async def test_a_listing_from_before_a_change_is_not_stored_after_it(store: Store, nursery: trio.Nursery) -> None:
    tier = Tier(Where(store.url, MIB))
    nursery.start_soon(tier.run)
    listings = Listings(tier, Account("an account"))
    _, _, stamp = await listings.look("dir")
    listings.put("dir", stamp, b"before", 30.0)
    while (await listings.look("dir"))[0] != b"before":  # noqa: ASYNC110
        await trio.sleep(0.01)
    listings.drop("dir")
    await listings.settled()
    listings.put("dir", stamp, b"before", 30.0)
    listings.drop("another")
    await listings.settled()
    found, _, newer = await listings.look("dir")
    assert (found, newer != stamp) == (None, True)
    assert (await Listings(tier, Account("another account")).look("dir"))[0] is None


# -- a mount ---------------------------------------------------------------------------------------------


@pytest.mark.mount
def test_a_mount_shares_with_the_others(
    machines: list[Worker], store: Store, record: Folder, sandbox: Sandbox, tmp_path: Path
) -> None:
    path, right = put(record, "reads", 6 * MIB)
    assert machines[0].do(DIGEST, path=path) == right
    is_there(store, 6)
    mount = Mount(tmp_path, shared_stage.configured(sandbox.config, tmp_path, store.url, ROOM_MIB))
    try:
        mount.start()
        sandbox.reset()
        assert hashlib.sha256((mount.path / path).read_bytes()).hexdigest() == right
        assert (bytes_out(sandbox), sandbox.requests()[LISTS]) == (0, 0)
        assert "block(s) came from other machines" in typed("status", env=mount.env).stdout
        with open(mount.path / path, "r+b") as file:
            file.write(b"ours")
            with pytest.raises(Refused, match="is being written"):
                machines[1].do("fs.pipe_file(path, b'theirs')", path=path)
        machines[1].do("kept['file'] = fs.open(path, 'r+b')", path=path)
        with pytest.raises(OSError) as caught:
            open(mount.path / path, "r+b")
        assert caught.value.errno == errno.EBUSY
        assert "is being written by" in typed("why", mount.path / path, env=mount.env).stdout
        machines[1].do("kept.pop('file').close()")
        put(record, "new", 10)
        mount.refresh(record.at(mount.path))
        assert machines[2].do(NAMES, path=str(record.at(Path()))) == ["new", "reads"]
    finally:
        mount.clean_up()


# -- what is told, and what is configured ------------------------------------------------------------------


def test_status_and_doctor_tell_of_it(
    machines: list[Worker], store: Store, record: Folder, running: Sandbox, tmp_path: Path
) -> None:
    path, right = put(record, "told", MIB)
    for worker in machines[:2]:
        assert worker.do(DIGEST, path=path) == right
        is_there(store, 1)
    own = {"LABFS_STATE_DIR": str(machines[1].base / "state"), "LABFS_CACHE_DIR": str(machines[1].base / "cache")}
    config = shared_stage.configured(running.config, tmp_path, store.url)

    def status() -> tuple[dict[str, Any], str]:
        (mount,) = json.loads(typed("status", "--json", env=own).stdout)["mounts"]
        (line,) = [line for line in typed("status", env=own).stdout.splitlines() if "shared tier" in line]
        return mount["shared"], line

    def doctor(path: Path) -> dict[str, str]:
        report = json.loads(typed("doctor", "--json", "-c", path, env=own).stdout)
        (finding,) = [each for each in report["findings"] if each["topic"] == "shared tier"]
        return dict(finding)

    told, line = status()
    assert told["trouble"] is None
    assert told["blocks"] > 0
    assert line.strip().startswith(f"shared tier 127.0.0.1:{store.port}, ")
    assert doctor(config)["level"] == "good"
    store.kill()
    machines[1].do("fs.invalidate_cache(); fs.ls(path)", path=str(record.at(Path())))
    until(lambda: status()[0]["trouble"] is not None)
    assert "left alone since" in status()[1]
    assert "it cannot be reached" in status()[1]
    found = doctor(config)
    assert (found["level"], found["fix"] != "") == ("wrong", True)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("mib = 100", "has no url"),
        ('url = "http://x"', "is not the address of a Redis or Valkey"),
        ('url = "redis://h:0"', "is not the address"),
        ('url = "redis://h/db"', "is not the address"),
        ('url = "redis://me:hidden-word@h"', "these have keys of their own"),
        ('url = "redis://h"\nmib = "1"', "mib must be a whole number"),
        ('url = "redis://h"\nmib = 3', "mib must be a whole number"),
        ('url = "redis://h"\nsize = 3', "takes url, username, password, ca and mib, and nothing else"),
        ('url = "redis://h"\nusername = "me"', "a username and no password"),
        ('url = "redis://h"\npassword = { env = "NOT_SET_HERE" }', "NOT_SET_HERE, which is not set"),
        ('url = "redis://h"\npassword = { keyring = true }', "keyring"),
    ],
)
def test_a_section_that_cannot_be_is_one_sentence(
    section: str, sentence: str, running: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "labfs.toml"
    path.write_text(f"{running.config.read_text()}\n[shared]\n{section}\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(path)
    assert "hidden-word" not in str(caught.value)
    assert "labfs login" not in str(caught.value)


def test_a_password_is_sent_and_never_told(store: Store, running: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("a-hidden-word\n")
    secret.chmod(0o600)
    config = shared_stage.configured(running.config, tmp_path, store.url)
    config.write_text(f'{config.read_text()}password = {{ file = "{secret}" }}\n')
    own = {"LABFS_STATE_DIR": str(tmp_path / "state"), "LABFS_CACHE_DIR": str(tmp_path / "cache")}
    store.client.config_set("requirepass", "a-hidden-word")
    admin = redis.Redis(port=store.port, password="a-hidden-word")
    try:
        told = typed("doctor", "-c", config, env=own).stdout
        assert f"The shared tier at 127.0.0.1:{store.port} answers in" in told
        secret.write_text("another-hidden-word\n")
        told += typed("doctor", "-c", config, env=own).stdout
        assert "it refuses the user name or the password" in told
        assert "hidden-word" not in told
    finally:
        admin.config_set("requirepass", "")
        admin.close()


def test_tls_is_spoken_and_checked(running: Sandbox, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    own = {"LABFS_STATE_DIR": str(tmp_path / "state"), "LABFS_CACHE_DIR": str(tmp_path / "cache")}
    store = Store(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = {"cert": "cert.pem", "key": "key.pem", "ca-cert": "ca.pem"}
    words = [word for name, file in files.items() for word in (f"--tls-{name}-file", str(tmp_path / file))]
    try:
        store.start("--tls-port", str(port), "--tls-auth-clients", "no", *words)
        config = shared_stage.configured(running.config, tmp_path, f"rediss://127.0.0.1:{port}")
        assert "is of no use: it cannot be reached" in typed("doctor", "-c", config, env=own).stdout
        config.write_text(f'{config.read_text()}ca = "ca.pem"\n')
        assert f"The shared tier at 127.0.0.1:{port} answers in" in typed("doctor", "-c", config, env=own).stdout
    finally:
        store.client.close()
        store.kill()
