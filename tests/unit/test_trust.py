"""Certificates: one list for all three ways that bytes travel, and one sentence about one that is not good."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from network_stage import FUTURE, NOTHING, PAST, WAYS, Authority, Bed, Between, processes

from labfs.errors import Barred, ConfigError
from labfs.http.client import Client
from labfs.http.network import trust


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with processes() as start:
        made = Bed(tmp_path_factory.mktemp("bed"), start)
        yield made
        made.close()


@pytest.fixture(scope="module")
def stores(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and directories of certificates, good and bad ones."""
    there, authority = tmp_path_factory.mktemp("stores"), bed.authority.file.read_text()
    other = tmp_path_factory.mktemp("other")
    (there / "other.pem").write_text(Authority(other).file.read_text())
    (there / "ours.pem").write_text(f"The institute's own\n\n{authority}")
    (there / "both.pem").write_text(authority + (there / "other.pem").read_text())
    (there / "ours.cer").write_bytes(ssl.PEM_cert_to_DER_cert(authority))
    (there / "windows.crt").write_text(authority.replace("\n", "\r\n"))
    for name, file in (("hashed", "00c0ffee.0"), ("plain", "institute.crt")):
        (there / name).mkdir()
        (there / name / file).write_text(authority)
        (there / name / "README").write_text("no certificate")
    hashed = subprocess.run(
        ["openssl", "x509", "-noout", "-hash", "-in", bed.authority.file], capture_output=True, text=True, check=True
    )
    (there / "hashed" / "00c0ffee.0").rename(there / "hashed" / f"{hashed.stdout.strip()}.0")
    (there / "empty.pem").touch()
    (there / "garbage.pem").write_bytes(bytes(range(256)) * 10)
    (there / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n")
    (there / "damaged.pem").write_text(authority[:300] + authority[400:])
    (there / "nothing").mkdir()
    return there


# variables | the site's own ca | whether the institute's front is trusted
TRUSTED = """
                                                  |             | no
SSL_CERT_FILE=<ours.pem>                          |             | yes
SSL_CERT_DIR=<hashed>                             |             | yes
SSL_CERT_DIR=<nothing>:<hashed>                   |             | yes
REQUESTS_CA_BUNDLE=<ours.pem>                     |             | yes
REQUESTS_CA_BUNDLE=<hashed>                       |             | yes
CURL_CA_BUNDLE=<both.pem>                         |             | yes
SSL_CERT_FILE=<other.pem>                         |             | no
SSL_CERT_FILE=<other.pem> REQUESTS_CA_BUNDLE=<ours.pem> |       | yes
SSL_CERT_FILE=<ours.pem> REQUESTS_CA_BUNDLE=<other.pem> |       | yes
SSL_CERT_FILE=<other.pem> SSL_CERT_DIR=<hashed>   |             | yes
                                                  | ours.pem    | yes
                                                  | both.pem    | yes
                                                  | ours.cer    | yes
                                                  | windows.crt | yes
                                                  | hashed      | yes
                                                  | plain       | yes
                                                  | other.pem   | no
SSL_CERT_FILE=<other.pem>                         | ours.pem    | yes
SSL_CERT_FILE=<nowhere> SSL_CERT_DIR=<nowhere>    | ours.pem    | yes
SSL_CERT_FILE=<garbage.pem>                       | ours.pem    | yes
"""


@pytest.mark.parametrize(
    ("variables", "own", "trusted"), [[c.strip() for c in row.split("|")] for row in TRUSTED.splitlines()[1:]]
)
async def test_all_three_ways_trust_the_same_authorities(
    bed: Bed, stores: Path, variables: str, own: str, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = dict(item.split("=", 1) for item in variables.split())
    for name, value in NOTHING.items():
        monkeypatch.setenv(name, named.get(name, value).replace("<", f"{stores}/").replace(">", ""))
    client = Client("hub", bed.filled("https://<TLS>/"), dict, ca=str(stores / own) if own else "")
    assert await outcomes(client, bed.filled("https://<TLS>/")) == [trusted] * 3


async def outcomes(client: Client, url: str) -> list[str]:
    """Return for each way whether it is trusted; anything else is an error."""
    found = [await outcome(way, client, url) for way in WAYS]
    assert client.outage is None
    await client.aclose()
    return found


async def outcome(way: Any, client: Client, url: str) -> str:
    try:
        await way(client, url)
    except Barred as error:
        sentence = str(error)
    else:
        return "yes"
    assert "signed by an authority that is not trusted here" in sentence and 'ca = "PATH"' in sentence
    return "no"


async def test_an_authority_that_is_installed_on_the_machine_is_trusted(
    bed: Bed, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `update-ca-certificates` does it: one bundle, and a directory by hash."""
    for name, value in NOTHING.items():
        monkeypatch.setenv(name, value)
    for name in ("both.pem", "hashed"):
        monkeypatch.setattr(trust, "MACHINE", (str(stores / name),))
        trust._machine.cache_clear()
        try:
            client = Client("hub", bed.filled("https://<TLS>/"), dict)
            assert await outcomes(client, bed.filled("https://<TLS>/")) == ["yes"] * 3
        finally:
            trust._machine.cache_clear()


def front(bed: Bed, start: Callable[..., Between], certificate: Path) -> Between:
    return start("front", "--tls", certificate, "--to", bed.server.server_port)


def signed_by_itself(directory: Path, *options: str) -> Path:
    """Return what `openssl req -x509` makes, key and certificate: what many a server in an institute has."""
    key, made = directory / "key.pem", directory / "self.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", made]
    subprocess.run([*command, "-subj", "/CN=localhost", *options], check=True, capture_output=True)
    made.write_text(made.read_text() + key.read_text())
    return made


@pytest.mark.parametrize("options", [[], ["-addext", "subjectAltName=DNS:localhost"]], ids=["subject alone", "name"])
async def test_a_server_that_is_its_own_authority_can_be_trusted_all_three_ways(
    bed: Bed, tmp_path: Path, options: list[str]
) -> None:
    certificate = signed_by_itself(tmp_path, *options)
    with processes() as start:
        url = f"https://localhost:{front(bed, start, certificate).port}/"
        assert await outcomes(Client("hub", url, dict, ca=str(certificate)), url) == ["yes"] * 3
        assert await outcomes(Client("hub", url, dict), url) == ["no"] * 3


BAD = {
    "expired": ({"not_before": PAST, "not_after": PAST}, (), "has expired", "clock"),
    "early": ({"not_before": FUTURE, "not_after": FUTURE}, (), "is not valid yet", "clock"),
    "another name": ({}, ("lims.example.org",), "is made out to another name", "address of the site"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_certificate_that_is_not_good_is_said_at_once(bed: Bed, case: str) -> None:
    options, names, word, remedy = BAD[case]
    with processes() as start:
        there = front(bed, start, bed.authority.certificate(*names, **options))
        url = f"https://localhost:{there.port}/"
        client = Client("hub", url, dict, ca=str(bed.authority.file), timeout_s=60)
        for way in WAYS * 3:
            with pytest.raises(Barred) as error:
                await way(client, url)
            text = str(error.value)
            assert text.startswith("hub: the certificate of localhost ") and word in text and remedy in text
        assert client.outage is None, "that is no outage"
        await client.aclose()


async def test_a_site_without_tls_is_said_at_once(bed: Bed) -> None:
    url = bed.filled("https://<HTTP>/")
    client = Client("hub", url, dict, timeout_s=60)
    for way in WAYS:
        with pytest.raises(Barred, match="not by TLS"):
            await way(client, url)
    await client.aclose()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("nowhere.pem", "cannot be read (No such file or directory)"),
        ("empty.pem", "holds no certificate"),
        ("garbage.pem", "holds no certificate"),
        ("key.pem", "holds no certificate"),
        ("nothing", "holds no certificate"),
        ("damaged.pem", "holds a damaged certificate"),
    ],
)
def test_what_names_no_certificates_is_a_sentence(stores: Path, name: str, word: str) -> None:
    path = stores / name
    with pytest.raises(ConfigError) as error:
        trust.trust("hub", str(path), {})
    assert str(error.value) == f"hub: its key ca names {path}, which {word}."
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        assert trust.doubts({variable: str(path)}) == [
            f"{variable} names {path}, which {word}; labfs goes on without it."
        ]


async def test_a_server_that_only_openssl_takes_is_asked_by_it_from_then_on(
    bed: Bed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = signed_by_itself(tmp_path)
    with processes() as start:
        there = front(bed, start, certificate)
        url = f"https://localhost:{there.port}/"
        client = Client("hub", url, dict, ca=str(certificate))
        with caplog.at_level("INFO", "labfs.http.network.ways"):
            for _ in range(3):
                await WAYS[1](client, url)
        notes = [record.message for record in caplog.records if "faster library" in record.message]
        assert len(notes) == 1 and "peer certificate" in notes[0]
        await client.aclose()
