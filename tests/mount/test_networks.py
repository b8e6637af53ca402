"""A day in a lab behind a proxy, or behind a front with certificates of the institute's own: five systems, one mount.

The same is done as on a plain network, with the same requests, and nothing goes past what stands between.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import five_stage
import pytest
from five_stage import SITES, Lab
from network_stage import NOTHING, PAST, Authority, Between, processes
from reverse import Reverse, Style
from stage import Mount, Sandbox, labfs, run, until

from labfs.daemon import config, control
from labfs.errors import ConfigError

pytestmark = [pytest.mark.mount, pytest.mark.timeout(180)]

PASSWORD = "S3cret"
GIVEN = random.Random(5).randbytes(1000)
LONG = random.Random(6).randbytes(6 * 1024 * 1024)  # an upload in parts, and several ranges
SHORT = random.Random(7).randbytes(1000)


@pytest.fixture(scope="module")
def lab(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        for site in SITES:
            made.put(site, "given.txt", GIVEN)
        yield made


class Network:
    """What stands between this machine and the sandbox, and a configuration and variables that lead through it."""

    def __init__(self, lab: Lab, base: Path, start: Callable[..., Between]) -> None:
        self.lab, self.base, self.start = lab, base, start
        self.env = dict(NOTHING)
        self.config = lab.sandbox.config.read_text()
        self.proxy: Between | None = None
        self.front: Between | None = None

    def behind_fronts(self) -> Authority:
        """Put a TLS front before each service, and before the store of the bytes."""
        authority = Authority(self.base)
        urls = dict.fromkeys([*re.findall(r'url = "(http://[^/"]+)', self.config), self.lab.sandbox.blobs])
        ports = [urlsplit(url).port for url in urls]
        to = [argument for port in ports for argument in ("--to", port)]
        self.front = self.start("front", "--tls", authority.certificate(), *to)
        for url, port in zip(urls, self.front.ports, strict=True):
            self.config = self.config.replace(url, f"https://localhost:{port}")
        return authority

    def behind_httpd(self, style: Style) -> Reverse:
        """Put Apache httpd before each service; the store of the bytes has an address of its own."""
        known = json.loads((self.lab.sandbox.directory / "sandbox.json").read_text())["sites"]
        reverse = Reverse(self.base / "httpd", known, style)
        for site, shown in reverse.urls.items():
            self.config = self.config.replace(known[site], shown)
        return reverse

    def everywhere(self, line: str) -> None:
        """Add a line to each site's section."""
        self.config = re.sub(r"(\nkind = )", rf"\n{line}\1", self.config)

    def mounted(self) -> Mount:
        path = self.base / "labfs.toml"
        path.write_text(self.config)
        path.chmod(0o600)
        mount = Mount(self.base, path)
        mount.env |= self.env
        return mount


def direct(network: Network) -> None:
    """Nothing stands between."""


def forward(network: Network) -> None:
    """A forward proxy that wants a password."""
    network.proxy = network.start("forward", "--auth", f"ada:{PASSWORD}")
    network.env["http_proxy"] = f"http://ada:{PASSWORD}@127.0.0.1:{network.proxy.port}"


def tunnel(network: Network) -> None:
    """A forward proxy before services with certificates of an authority that a variable names."""
    network.proxy = network.start("forward")
    network.env["HTTPS_PROXY"] = f"127.0.0.1:{network.proxy.port}"
    network.env["SSL_CERT_FILE"] = str(network.behind_fronts().file)


def gnome(network: Network) -> None:
    """A SOCKS proxy as GNOME sets it, with the list of exceptions that goes with it."""
    network.proxy = network.start("socks", "--versions", "5")
    network.env["ALL_PROXY"] = network.env["all_proxy"] = f"socks://127.0.0.1:{network.proxy.port}/"
    network.env["NO_PROXY"] = network.env["no_proxy"] = "example.org,10.0.0.0/8,fd00::/8,::1"
    network.env["REQUESTS_CA_BUNDLE"] = str(network.behind_fronts().file)


def own(network: Network) -> None:
    """All is said by the sites' own sections, and the environment is wrong."""
    network.proxy = network.start("socks", "--auth", f"ada:{PASSWORD}")
    network.env |= {"https_proxy": "http://127.0.0.1:1", "NO_PROXY": "*", "SSL_CERT_FILE": "/nowhere"}
    network.env["LAB_PROXY"] = f"socks5h://ada:{PASSWORD}@127.0.0.1:{network.proxy.port}"
    authority = network.behind_fronts()
    network.everywhere('proxy = { env = "LAB_PROXY" }')
    network.everywhere(f'ca = "{authority.file.name}"')


def day(site: str, lab: Lab, mount: Mount, sources: Path, failures: list[str]) -> None:
    """Look, read, save, and delete where that can be done, or else save what goes up in parts."""
    folder = mount.path / lab.places[site]
    record = folder.parent if site == "redcap" else folder  # a field holds one file
    saved = (record / "variants" if site == "redcap" else folder) / f"{sources.parent.name}.txt"
    commands = [
        f"ls -l '{record}' '{folder}' && cmp '{sources}/given' '{folder}/given.txt'",
        f"cp '{sources}/short' '{saved}'",
        f"rm '{saved}'" if site != "basespace" else f"cp '{sources}/long' '{saved}.long'",
    ]
    for command in commands:
        done = run(command)
        if done.returncode:
            failures.append(f"{site}: {done.stderr}{labfs('why', folder, env=mount.env).stdout}")


def counted(sandbox: Sandbox) -> Counter[str]:
    """Return the requests of the day, once there were none for a while: REDCap's are paced."""
    found, now = Counter[str](), sandbox.requests()
    while found != now:
        time.sleep(1.0)
        found, now = now, sandbox.requests()
    return found


def spent(lab: Lab, base: Path, network: Network) -> Counter[str]:
    """Spend a day in a mount; return all its requests, by route."""
    (base / "files").mkdir()
    for name, data in (("given", GIVEN), ("short", SHORT), ("long", LONG)):
        (base / "files" / name).write_bytes(data)
    mount, failures = network.mounted(), list[str]()
    lab.sandbox.reset()
    try:
        mount.start()
        people = [threading.Thread(target=day, args=(site, lab, mount, base / "files", failures)) for site in SITES]
        for person in people:
            person.start()
        for person in people:
            person.join()
        assert failures == []
        until(lambda: all(f"{site}: signed in as" in mount.log for site in SITES), 20)
        requests = counted(lab.sandbox)
        status = control.ask(next(mount.state.glob("mounts/*/control")), {"op": "status"})
        assert PASSWORD not in mount.log + json.dumps(status)
    finally:
        mount.clean_up()
    return requests


@pytest.fixture(scope="module")
def usual(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    base = tmp_path_factory.mktemp("direct")
    with processes() as start:
        return spent(lab, base, Network(lab, base, start))


@pytest.mark.parametrize("way", [forward, tunnel, gnome, own])
def test_a_day_in_all_systems_makes_the_same_requests_and_none_goes_past(
    lab: Lab, usual: Counter[str], way: Callable[[Network], None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp(way.__name__)
    with processes() as start:
        network = Network(lab, base, start)
        way(network)
        requests = spent(lab, base, network)
        proxy, front = network.proxy, network.front
        assert proxy is not None
        if front is None:
            assert proxy.asked == requests.total()
        else:
            carried = {event["out"] for event in proxy.events if "out" in event}
            came = [event["came"] for event in front.events if "came" in event]
            assert len(came) > len(SITES)
            assert set(came) == carried
        assert not [event for event in proxy.events if "refused" in event]
        assert requests == usual


def moved(base: Path) -> Style:
    """Below a path, under another host name than the services know of themselves, by https alone, few answers a line."""
    return Style(path="/lims/of/ours", tls=Authority(base).certificate(), answers=5)


def old(base: Path) -> Style:
    """From IPv6 alone, in HTTP/1.0 without lengths: the end of an answer is the end of its connection."""
    return Style(host="[::1]", old=True)


# What it costs that no length is told: the whole is read for a size, and once more since it may have been cut.
LENGTHS = Counter(
    {"GET /api/v2/files/{id}/download": 4, "GET /api/v1/as-curator/files/{id}/download": 2, "POST /api/": 2}
)


def asked(lab: Lab) -> Counter[str]:
    """Return how many requests the services had, by site."""
    counts = Counter[str]()
    for row in lab.sandbox.report()["requests"]:
        if row["service"] in SITES:
            counts[row["service"]] += row["count"]
    return counts


@pytest.mark.parametrize("way", [moved, old])
def test_a_day_behind_httpd_makes_the_same_requests_and_none_goes_past(
    lab: Lab, usual: Counter[str], way: Callable[[Path], Style], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp(way.__name__)
    with processes() as start:
        network = Network(lab, base, start)
        style = way(base)
        network.env["SSL_CERT_FILE"] = str(base / "institute.pem") if style.tls else ""
        reverse = network.behind_httpd(style)
        try:
            requests = spent(lab, base, network)
        finally:
            reverse.close()
        assert requests - usual == LENGTHS if style.old else requests == usual
        assert reverse.requests() == asked(lab)


def test_bytes_on_a_services_own_disk_come_from_where_the_service_is(lab: Lab, network: Network) -> None:
    lab.portal.switch(mode="local")
    lab.put("portal", "own.txt", SHORT)
    network.env["SSL_CERT_FILE"] = str(network.base / "institute.pem")
    reverse = network.behind_httpd(moved(network.base))
    mount = network.mounted()
    lab.sandbox.reset()
    try:
        mount.start()
        own = mount.path / lab.places["portal"] / "own.txt"
        assert own.stat().st_size == len(SHORT)
        assert own.read_bytes() == SHORT
    finally:
        mount.clean_up()
        lab.portal.switch(mode="s3")
        reverse.close()
    assert reverse.requests()["portal"] == asked(lab)["portal"] > 3


@pytest.fixture
def network(lab: Lab, tmp_path: Path) -> Iterator[Network]:
    with processes() as start:
        yield Network(lab, tmp_path, start)


def section(text: str, site: str, *lines: str, url: str = "") -> str:
    """Return a configuration with more lines in one site's section, or with another address of it."""
    head, rest = text.split(f"[sites.{site}]\n")
    if url:
        rest = re.sub(r'url = "[^"]*?(/[a-z/]*)?"', rf'url = "{url}\1"', rest, count=1)
    return f"{head}[sites.{site}]\n" + "".join(f"{line}\n" for line in lines) + rest


def test_what_is_in_the_way_of_some_sites_is_said_at_once_and_is_no_outage(lab: Lab, network: Network) -> None:
    known = json.loads((lab.sandbox.directory / "sandbox.json").read_text())["sites"]
    authority = Authority(network.base)
    expired = network.start(
        "front", "--tls", authority.certificate(not_before=PAST, not_after=PAST), "--to", urlsplit(known["portal"]).port
    )
    untrusted = network.start("front", "--tls", authority.certificate(), "--to", urlsplit(known["odm"]).port)
    locked = network.start("forward", "--auth", f"ada:{PASSWORD}")
    text = section(network.config, "portal", f'ca = "{authority.file}"', url=f"https://localhost:{expired.port}")
    text = section(text, "odm", url=f"https://localhost:{untrusted.port}")
    text = section(text, "clarity", f'proxy = "http://127.0.0.1:{locked.port}"')
    network.config = section(text, "redcap", f'proxy = "http://ada:{PASSWORD}@127.0.0.1:{locked.port}"')
    network.env["NO_PROXY"] = "localhost,10.*"
    network.env["SSL_CERT_FILE"] = "/nowhere"
    mount = network.mounted()
    words = {
        "portal": "the certificate of localhost has expired",
        "odm": 'signed by an authority that is not trusted here; if it is your institute\'s own, get its certificate and name it in the configuration of the site: ca = "PATH"',
        "clarity": f"the proxy 127.0.0.1:{locked.port} (from its key proxy) asks for a user and a password",
    }
    doubts = ["NO_PROXY has an item that is neither", "SSL_CERT_FILE names /nowhere, which cannot be read"]
    try:
        done = labfs("mount", "-c", network.base / "labfs.toml", mount.path, env=mount.env)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        for word in (*words.values(), *doubts):
            assert sum(line.startswith("But: ") and word in line for line in lines) == 1, (word, lines)
        ear, asked = next(mount.state.glob("mounts/*/control")), locked.asked
        for site, word in words.items():
            began = time.monotonic()
            look = run(f"ls '{mount.path / site}'")
            assert time.monotonic() - began < 4, "that is not tried again"
            assert "Permission denied" in look.stderr
            assert word in control.ask(ear, {"op": "why", "path": f"/{site}"})["reason"]
        assert run(f"ls '{mount.path / lab.places['basespace']}'").returncode == 0
        assert (mount.path / lab.places["redcap"] / "given.txt").read_bytes() == GIVEN
        assert locked.asked > asked
        status = control.ask(ear, {"op": "status"})
        assert [site["outage"] for site in status["sites"]] == [None] * len(SITES)
        assert PASSWORD not in mount.log + json.dumps(status) + done.stdout + done.stderr
    finally:
        mount.clean_up()


@pytest.mark.parametrize(
    ("variables", "lines", "sentence"),
    [
        ({"ALL_PROXY": f"quic://ada:{PASSWORD}@x:1"}, (), "basespace: the proxy in ALL_PROXY is of a kind that labfs"),
        ({}, ('ca = "labfs.toml"',), "labfs.toml, which holds no certificate"),
    ],
)
def test_a_way_that_cannot_be_gone_is_one_sentence_of_the_mount(
    network: Network, variables: dict[str, str], lines: tuple[str, ...], sentence: str
) -> None:
    network.env |= variables
    network.config = section(network.config, "basespace", *lines)
    mount = network.mounted()
    done = labfs("mount", "-c", network.base / "labfs.toml", "--site", "basespace", mount.path, env=mount.env)
    assert done.returncode == 1 and sentence in done.stderr
    assert done.stderr.count("\n") == 1 and PASSWORD not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            'proxy = { env = "LAB_PROXY" }',
            "sites.basespace.proxy should be in the environment variable LAB_PROXY, which is not set.",
        ),
        ("proxy = 7", "proxy must be a text, or one of env, file and keyring."),
        ("ca = 7", "ca must be the path of a file of certificates."),
        ('ca = ""', "ca must be the path of a file of certificates."),
        (f'proxy = "http://ada:{PASSWORD}@x:1"', "and others may read it; run: chmod 600"),
    ],
)
def test_a_mistake_in_the_keys_of_the_way_is_told(network: Network, line: str, sentence: str) -> None:
    path = network.base / "labfs.toml"
    secret = network.config.replace('token = "', 'token = { env = "NAME" }  # "')
    path.write_text(section(secret, "basespace", line).partition("[sites.clarity]")[0])
    path.chmod(0o644)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NAME", "a token")
        with pytest.raises(ConfigError) as error:
            config.load(path)
    assert sentence in str(error.value) and PASSWORD not in str(error.value)
