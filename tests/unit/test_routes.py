"""Which way a request goes: one decision for all three ways that bytes travel, and the one that curl takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from network_stage import WAYS, Bed, processes, ranged

from labfs.errors import ConfigError
from labfs.http.client import Client, Request
from labfs.http.network.route import Exempt, Route, doubts


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with processes() as start:
        made = Bed(tmp_path_factory.mktemp("bed"), start)
        yield made
        made.close()


# url | variables | the proxy that carries it
ROUTES = """
http://<HTTP>/         |                                                          | direct
http://<HTTP>/         | http_proxy=http://<forward>                              | forward
http://<HTTP>/         | http_proxy=<forward>                                     | forward
http://<HTTP>/         | http_proxy=HTTP://<forward>/                             | forward
http://<HTTP>/         | HTTP_PROXY=http://<forward>                              | direct
https://<TLS>/         | http_proxy=http://<forward>                              | direct
https://<TLS>/         | https_proxy=http://<forward>                             | forward
https://<TLS>/         | HTTPS_PROXY=http://<forward>                             | forward
https://<TLS>/         | https_proxy=http://<forward> & HTTPS_PROXY=http://<gone> | forward
https://<TLS>/         | https_proxy= & HTTPS_PROXY=http://<forward>              | forward
http://<HTTP>/         | ALL_PROXY=http://<forward>                               | forward
https://<TLS>/         | all_proxy=http://<forward> & ALL_PROXY=http://<gone>     | forward
https://<TLS>/         | all_proxy=http://<gone> & https_proxy=http://<forward>   | forward
http://<HTTP>/         | http_proxy=http://ada:p%40ss%2Fw%25rd%3A%C3%A9@<locked>  | locked
https://<TLS>/         | https_proxy=ada:p%40ss%2Fw%25rd%3a%c3%a9@<locked>        | locked
https://<TLS>/         | https_proxy=https://<tlsproxy>                           | tlsproxy
http://<HTTP>/         | http_proxy=https://<tlsproxy>                            | tlsproxy
http://plain.lab.test/ | all_proxy=http://<forward>                               | forward
https://tls.lab.test/  | all_proxy=http://<forward>                               | forward
http://<HTTP>/         | ALL_PROXY=socks4://<socks>                               | socks
https://<TLS>/         | ALL_PROXY=socks4://<socks4>                              | socks4
https://tls.lab.test/  | ALL_PROXY=socks4a://<socks4>                             | socks4
http://plain.lab.test/ | all_proxy=socks4a://somebody@<socks>                     | socks
http://<HTTP>/         | ALL_PROXY=socks5://<socks>                               | socks
https://<TLS>/         | https_proxy=socks5://<socks>                             | socks
https://tls.lab.test/  | ALL_PROXY=socks5h://<socks>                              | socks
http://plain.lab.test/ | ALL_PROXY=SOCKS5H://<socks>/                             | socks
https://<TLS>/         | ALL_PROXY=socks5://ada:p%40ss%2Fw%25rd@<guarded>         | guarded
https://tls.lab.test/  | ALL_PROXY=socks5h://ada:p%40ss%2Fw%25rd@<guarded>        | guarded
https://<TLS>/         | ALL_PROXY=socks://<socks>/                               | socks
http://<HTTP>/         | all_proxy=socks://<socks>/ & ALL_PROXY=socks://<gone>/   | socks
http://<HTTP>/         | all_proxy=http://<forward> & NO_PROXY=*                  | direct
http://<HTTP>/         | all_proxy=http://<forward> & no_proxy=localhost          | direct
http://<HTTP>/         | all_proxy=http://<forward> & no_proxy=x.org,LOCALHOST    | direct
http://<HTTP>/         | all_proxy=http://<forward> & no_proxy=x.org localhost y  | direct
http://<HTTP>/         | all_proxy=http://<forward> & no_proxy=.localhost         | direct
http://<HTTP>/         | all_proxy=http://<forward> & no_proxy=ocalhost           | forward
http://<HTTP>/         | all_proxy=http://<forward> & no_proxy=a.localhost        | forward
http://<HTTP>/         | all_proxy=http://<forward> & no_proxy=127.0.0.0/8        | forward
http://<HTTP>/         | all_proxy=http://<forward> & NO_PROXY=fd00::/8           | forward
http://<HTTP>/         | all_proxy=http://<forward> & no_proxy=x & NO_PROXY=*     | forward
http://127.0.0.1:<HTTP:>/ | all_proxy=http://<forward> & no_proxy=127.0.0.1       | direct
http://127.0.0.1:<HTTP:>/ | all_proxy=http://<forward> & no_proxy=10.0.0.0/8,127.0.0.0/8 | direct
http://127.0.0.1:<HTTP:>/ | all_proxy=http://<forward> & no_proxy=127.0.0.0/30    | direct
http://127.0.0.1:<HTTP:>/ | all_proxy=http://<forward> & no_proxy=128.0.0.0/8     | forward
"""
ROWS = [tuple(cell.strip() for cell in line.split("|")) for line in ROUTES.strip().splitlines()]


@pytest.mark.parametrize(("url", "variables", "expected"), ROWS)
async def test_all_three_ways_take_the_route_that_curl_takes(
    bed: Bed, url: str, variables: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bed.filled(url)
    for name, value in bed.env(variables).items():
        monkeypatch.setenv(name, value)
    trusting = ["--cacert", bed.authority.file, "--proxy-cacert", bed.authority.file]
    done = await trio.run_process(["curl", "-sS", "-m", "10", *trusting, url], capture_stdout=True)
    assert done.stdout == b"some bytes of a file"
    assert bed.route(expected) == expected, "curl's own"
    client = Client("hub", url, dict, ca=str(bed.authority.file))
    try:
        for way in WAYS:
            await way(client, url)
            assert bed.route(expected) == expected
    finally:
        await client.aclose()


# url | the site's own proxy | variables, which it makes no difference to
OWN = """
http://<HTTP>/  | http://<forward>                  | NO_PROXY=*                     | forward
https://<TLS>/  | http://<forward>                  | https_proxy=http://<gone>      | forward
https://<TLS>/  | socks5://<socks>                  |                                | socks
http://<HTTP>/  |                                   | ALL_PROXY=http://<gone>        | direct
https://<TLS>/  | none                              | ALL_PROXY=nonsense://<gone>    | direct
https://tls.lab.test/ | socks5h://ada:p%40ss%2Fw%25rd@<guarded> | https_proxy=http://<gone> | guarded
"""


@pytest.mark.parametrize(
    ("url", "own", "variables", "expected"), [[c.strip() for c in row.split("|")] for row in OWN.strip().splitlines()]
)
async def test_a_sites_own_proxy_is_its_whole_rule(
    bed: Bed, url: str, own: str, variables: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bed.filled(url)
    for name, value in bed.env(variables).items():
        monkeypatch.setenv(name, value)
    bed.route("direct")
    client = Client("hub", url, dict, proxy=lambda: bed.filled(own), ca=str(bed.authority.file))
    try:
        for way in WAYS:
            await way(client, url)
            assert bed.route(expected) == expected
    finally:
        await client.aclose()


async def test_a_file_store_takes_a_route_of_its_own(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bed.env("all_proxy=http://<forward> & no_proxy=localhost").items():
        monkeypatch.setenv(name, value)
    bed.route("direct")
    client = Client("hub", bed.filled("http://<HTTP>/"), dict)
    try:
        await client.call(Request("GET", "x"))
        assert bed.route("direct") == "direct"
        await ranged(client, "http://plain.lab.test/file", 0, 20, None)
        assert bed.route("forward") == "forward"
    finally:
        await client.aclose()


# What stands in a variable or in the key, and a word of the sentence about it.
CANNOT = [
    ("ftp://ada:S3cret@host:21", "of a kind"),
    ("S3cret://host", "of a kind"),
    ("pac+http://S3cret/p.pac", "of a kind"),
    ("http://ada:S3cret/@host:3128", "%2F"),
    ("http://ada:S3cret@host:99999", "no address"),
    ("http://ada:S3cret@", "no address"),
    ("http://", "no address"),
    ("http://ada:S3cret@ho st:1", "no address"),
    ("http://[::1:3128", "no address"),
    ("http:S3cret:3128", "no address"),
    ("http://ada:S3cret%0d%0aX@host:1", "characters"),
    ("socks5://ada:S3cret%c3%a9@host:1", "characters"),
    ("socks5://ada:S3cret" + 300 * "x" + "@host:1", "255"),
]


@pytest.mark.parametrize(("value", "word"), CANNOT)
@pytest.mark.parametrize("source", ["https_proxy", "ALL_PROXY", "its key proxy"])
def test_a_proxy_that_cannot_be_used_is_a_sentence_without_its_value(source: str, value: str, word: str) -> None:
    own = source == "its key proxy"
    route = Route("hub", (lambda: value) if own else None, {} if own else {source: value})
    with pytest.raises(ConfigError) as error:
        route.of("https://hub.example/")
    text = str(error.value)
    assert text.startswith(f"hub: the proxy in {source} ") and word in text and "S3cret" not in text
    assert text.count(".") == text.endswith(".")


@pytest.mark.parametrize(
    ("items", "host", "port", "direct"),
    [
        ("fd00::/8", "fd12::1", 443, True),
        ("fd00::/8", "fe80::1", 443, False),
        ("[::1]", "::1", 443, True),
        ("::1", "::1", 443, True),
        ("[::1]:8080", "::1", 8080, True),
        ("[::1]:8080", "::1", 443, False),
        ("[fd00::]/8", "fd00::5", 443, True),
        ("0:0:0:0:0:0:0:1", "::1", 443, True),
        ("10.1.2.3/8", "10.9.9.9", 443, True),
        ("10.0.0.0/33", "10.0.0.1", 443, False),
        ("10.0.0.0/8", "10.example.org", 443, False),
        ("example.org", "www.example.org", 443, True),
        ("example.org", "example.org.", 443, True),
        ("example.org.", "www.EXAMPLE.org", 443, True),
        (".example.org", "example.org", 443, True),
        ("*.example.org", "www.example.org", 443, True),
        ("example.org", "notexample.org", 443, False),
        ("www.example.org", "example.org", 443, False),
        ("example.org:8443", "example.org", 8443, True),
        ("example.org:8443", "example.org", 443, False),
        ("0.0.1", "127.0.0.1", 443, False),
        ("a,*", "b", 443, True),
        ("a , b", "b", 443, True),
        ("", "b", 443, False),
        (",, ,", "b", 443, False),
    ],
)
def test_no_proxy_exempts(items: str, host: str, port: int, direct: bool) -> None:
    exempt = Exempt(items)
    assert exempt.covers(host, port) is direct
    assert exempt.unknown is (items == "10.0.0.0/33")


def test_an_item_that_makes_no_sense_is_a_doubt_that_names_the_variable() -> None:
    for value in ("10.0.0.0/33", "localhost,192.168.*", "/var/run/docker.sock", "http://secret@host"):
        (doubt,) = doubts({"NO_PROXY": value})
        assert doubt.startswith("NO_PROXY has an item") and value not in doubt
        assert Exempt(f"{value},localhost").covers("localhost", 80), "the others count"
    assert doubts({"no_proxy": "localhost", "NO_PROXY": "/"}) == [], "the other one is not looked at"
