"""What a proxy fails at: a sentence that names it and the variable, never its password, and no outage of the site."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from network_stage import WAYS, Bed, processes

from labfs.backend import dispensable
from labfs.errors import Barred, LabfsError, Unavailable
from labfs.http.client import Client


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with processes() as start:
        made = Bed(tmp_path_factory.mktemp("bed"), start)
        made.add("strict", start("forward", "--refuse", "403"))
        made.add("stuck", start("forward", "--refuse", "503"))
        yield made
        made.close()


# url | variable | the error | a word of the sentence
FAILURES = """
https://<TLS>/  | https_proxy=http://<gone>                  | Unavailable | cannot be reached (Connection refused)
http://<HTTP>/  | http_proxy=http://<gone>                   | Unavailable | cannot be reached (Connection refused)
https://<TLS>/  | ALL_PROXY=socks5h://<gone>                 | Unavailable | cannot be reached (Connection refused)
http://<HTTP>/  | all_proxy=socks4://<gone>                  | Unavailable | cannot be reached (Connection refused)
https://<TLS>/  | HTTPS_PROXY=http://nowhere.lab.test:3128   | Unavailable | cannot be reached (Name or service not known)
https://<TLS>/  | https_proxy=http://<locked>                | Barred      | asks for a user and a password
http://<HTTP>/  | http_proxy=http://<locked>                 | Barred      | asks for a user and a password
https://<TLS>/  | https_proxy=http://ada:S3cret@<locked>     | Barred      | refuses its user and password
http://<HTTP>/  | http_proxy=http://ada:S3cret@<locked>      | Barred      | refuses its user and password
https://<TLS>/  | ALL_PROXY=socks5://ada:S3cret@<guarded>    | Barred      | wants another user and password
http://<HTTP>/  | ALL_PROXY=socks5h://<guarded>              | Barred      | wants another user and password
https://<TLS>/  | https_proxy=http://<strict>                | Barred      | does not let labfs through to localhost (403)
https://<TLS>/  | https_proxy=http://<stuck>                 | Unavailable | cannot reach localhost (503)
https://<TLS>/  | ALL_PROXY=socks5://<socks4>                | Unavailable | does not answer as a SOCKS5 proxy
https://<TLS>/  | ALL_PROXY=socks5://<forward>               | Unavailable | or localhost behind it, did not answer in time
https://no.lab.test/ | ALL_PROXY=socks5://<socks>            | Unavailable | no.lab.test cannot be reached
https://no.lab.test/ | ALL_PROXY=socks5h://<socks>           | Unavailable | cannot reach no.lab.test
https://<TLS>/  | https_proxy=https://<HTTP>                 | Barred      | not by TLS
"""


@pytest.mark.parametrize(
    ("url", "variable", "kind", "word"), [[c.strip() for c in row.split("|")] for row in FAILURES.strip().splitlines()]
)
async def test_what_a_proxy_fails_at_is_said(
    bed: Bed, url: str, variable: str, kind: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bed.env(variable).items():
        monkeypatch.setenv(name, value)
    url, (source, _, address) = bed.filled(url), bed.filled(variable).partition("=")
    # What is not worth trying again is told long before patience ends; of the rest one try is enough to see.
    timeout_s = 20.0 if kind == "Barred" else 0.3 if "in time" in word else 2.0
    once = contextlib.nullcontext if kind == "Barred" else dispensable
    client = Client("hub", url, dict, ca=str(bed.authority.file), timeout_s=timeout_s)
    for way in WAYS:
        begun = time.monotonic()
        with once(), pytest.raises(LabfsError) as error:
            await way(client, url)
        assert time.monotonic() - begun < 5
        assert type(error.value) is {"Barred": Barred, "Unavailable": Unavailable}[kind], error.value
        text = str(error.value)
        assert text.startswith("hub: ") and word in text and "S3cret" not in text
        assert f"the proxy {address.rpartition('/')[2].rpartition('@')[2]} (from {source})" in text, text
    await client.aclose()


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_a_proxy_that_is_away_is_no_outage_of_the_site(
    bed: Bed, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bed.env(f"ALL_PROXY={scheme}://<gone>").items():
        monkeypatch.setenv(name, value)
    client = Client("hub", bed.filled("http://<HTTP>/"), dict, timeout_s=0.5)
    for way in WAYS:
        with pytest.raises(Unavailable):
            await way(client, bed.filled("http://<HTTP>/"))
    assert client.outage is not None
    assert client.outage.startswith("The proxy 127.0.0.1:1 (from ALL_PROXY) has not answered since")
    await client.aclose()
