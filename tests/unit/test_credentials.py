"""Secrets: fit to be sent from wherever they come, told of by their keys alone, and quoted by nobody."""

from __future__ import annotations

import base64
import itertools
import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from labfs.backends.basic import Basic
from labfs.daemon import config
from labfs.errors import ConfigError, Denied, LabfsError, Malformed, Unauthorized, secrecy, sentence
from labfs.http.client import Answer, Client, Request
from labfs.http.contents import Address
from labfs.http.download import Ask, rust
from labfs.http.failures import translated
from labfs.http.network.route import Route
from labfs.http.network.trust import trust

TOKEN = "0a1b2c3d-DISTINCT-4e5f"
SITES = {
    "hub.token": '[sites.hub]\nkind = "basespace"\nurl = "https://h.example"\ntoken = {0}\n',
    "lims.username": '[sites.lims]\nkind = "clarity"\nurl = "https://h.example"\nusername = {0}\npassword = "long-enough"\n',
    "lims.password": '[sites.lims]\nkind = "clarity"\nurl = "https://h.example"\nusername = "u"\npassword = {0}\n',
    "odm.token": '[sites.odm]\nkind = "odm"\nurl = "https://h.example"\ntoken = {0}\n',
    "res.token": '[sites.res]\nkind = "portal"\nurl = "https://h.example"\ntoken = {0}\n',
    "red.projects.bio bank.token": '[sites.red]\nkind = "redcap"\nurl = "https://h.example"\n'
    'projects = {{ "bio bank" = {{ token = {0} }} }}\n',
}  # fmt: skip
WAYS = ("env", "file", "literal", "keyring")


class Place:
    """A configuration with one secret in it, wherever that is."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file, self.path = tmp_path / "secret", tmp_path / "labfs.toml"
        self._patch = monkeypatch

    def put(self, way: str, value: str | bytes) -> str:
        text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        match way:
            case "env":
                self._patch.setenv("A_SECRET", text)
                return '{ env = "A_SECRET" }'
            case "file":
                self.file.write_bytes(data)
                self.file.chmod(0o600)
                return f'{{ file = "{self.file}" }}'
            case "keyring":
                ring = types.ModuleType("keyring")
                ring.get_password = lambda service, name: text  # type: ignore[attr-defined]
                ring.errors = types.ModuleType("keyring.errors")  # type: ignore[attr-defined]
                ring.errors.KeyringError = RuntimeError  # type: ignore[attr-defined]
                self._patch.setitem(sys.modules, "keyring", ring)
                self._patch.setitem(sys.modules, "keyring.errors", ring.errors)
                return "{ keyring = true }"
        quoted = "".join(f"\\U{ord(letter):08x}" for letter in text)
        return f'"{quoted}"'

    def load(self, key: str, way: str, value: str | bytes) -> Any:
        """Return what reads the secret."""
        self.path.write_text(SITES[key].format(self.put(way, value)))
        self.path.chmod(0o600)
        (site,) = config.load(self.path).sites
        known = next(iter(site.projects.values())) if site.projects else site.secrets
        return known[key.rpartition(".")[2]]


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    """What one test calls a secret may be a word of another one's."""
    before = dict(secrecy._known)
    secrecy._known.clear()
    secrecy._index.clear()
    yield
    secrecy._known.clear()
    secrecy._known.update(before)
    secrecy._index.clear()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


BETWEEN_QUOTES = ("literal", "lims.password")  # where blanks are meant


@pytest.mark.parametrize(("way", "key"), [pair for pair in itertools.product(WAYS, SITES) if pair != BETWEEN_QUOTES])
@pytest.mark.parametrize("dirt", ["{0}\r", "{0}\r\n", "{0} ", " \t{0}\n\n", "\ufeff{0}\r\n", "\u00a0{0}\u2028"])
def test_white_space_around_a_secret_goes(place: Place, way: str, key: str, dirt: str) -> None:
    assert place.load(key, way, dirt.format(TOKEN))() == TOKEN


def _direct() -> httpx.BaseTransport:
    """Return the transport of downloads, without any proxy."""
    return rust("site", Route("site", None, {}), trust("site", "", {}), 1)(False)


def test_blanks_between_quotes_belong_to_a_password(place: Place) -> None:
    assert place.load("lims.password", "literal", f" {TOKEN} \r\n")() == f" {TOKEN} "


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_editors_are_read(place: Place, encoding: str) -> None:
    assert place.load("hub.token", "file", f"{TOKEN}\r\n".encode(encoding))() == TOKEN


ANYWHERE = ["{0}\0x", "{0}\nx", "{0}\x07x", "{0}\u200bx", "{0}\u200b", "{0}\u2066x", "x\ufeff{0}", "{0}\u00adx"]
IN_NAMES = ["{0}\u00a0x", "{0}\u200dx"]
IN_TOKENS = ["{0}é", "{0}日"]


@pytest.mark.parametrize("key", SITES)
@pytest.mark.parametrize("dirt", [*ANYWHERE, *IN_NAMES, *IN_TOKENS])
def test_what_cannot_be_sent_is_told_by_its_key(place: Place, key: str, dirt: str) -> None:
    if (dirt in IN_NAMES and "password" in key) or (dirt in IN_TOKENS and "token" not in key):
        assert place.load(key, "file", dirt.format(TOKEN))() == dirt.format(TOKEN)
        return
    for way in WAYS if "\0" not in dirt else ("file", "literal"):
        with pytest.raises(ConfigError, match=f"sites.{key}") as caught:
            place.load(key, way, dirt.format(TOKEN))
        assert TOKEN not in str(caught.value)
        assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("key", SITES)
def test_bytes_that_are_no_text_are_told_by_their_key(place: Place, key: str) -> None:
    for way in ("file", "env"):
        with pytest.raises(ConfigError, match=f"sites.{key}") as caught:
            place.load(key, way, TOKEN.encode() + b"\xe9")
        assert TOKEN not in str(caught.value)


def test_a_colon_ends_a_user_name(place: Place) -> None:
    with pytest.raises(ConfigError, match=r"sites.lims.username"):
        place.load("lims.username", "literal", "a:b")


@pytest.mark.parametrize("value", [f'{{ env = "{"9F" * 16}" }}', f'{{ file = "{TOKEN}" }}', f'{{ "{TOKEN}" = 1 }}'])
def test_a_secret_where_its_place_should_be_is_not_shown(place: Place, value: str) -> None:
    place.path.write_text(SITES["hub.token"].format(value))
    with pytest.raises(ConfigError, match=r"sites.hub.token") as caught:
        config.load(place.path)
    assert TOKEN not in str(caught.value)
    assert "9F9F" not in str(caught.value)


def test_a_file_that_spoils_later_is_a_refusal_with_the_key(place: Place) -> None:
    read = place.load("hub.token", "file", TOKEN)
    place.put("file", f"{TOKEN[:-1]}\u200b{TOKEN[-1]}")
    with pytest.raises(Denied, match=r"sites.hub.token holds an invisible character") as caught:
        read()
    assert TOKEN[:-1] not in str(caught.value)
    place.file.unlink()
    with pytest.raises(Denied, match=r"sites.hub.token cannot be read"):
        read()
    place.put("file", "another-token\r\n")
    assert read() == "another-token"


@pytest.mark.parametrize(
    "url", ["https://user:pass-word@h.example", "https://h.example:port", "https://[::1", "https://h\x07.example"]
)
def test_an_address_that_cannot_be_used_is_a_sentence(place: Place, url: str) -> None:
    quoted = url.replace("\x07", "\\u0007")
    place.path.write_text(f'[sites.hub]\nkind = "basespace"\nurl = "{quoted}"\ntoken = "{TOKEN}"\n')
    place.path.chmod(0o600)
    with pytest.raises(ConfigError, match="hub") as caught:
        config.load(place.path)
    assert "pass-word" not in str(caught.value)


def test_white_space_around_an_address_goes(place: Place) -> None:
    place.path.write_text(f'[sites.hub]\nkind = "basespace"\nurl = " https://h.example\\t"\ntoken = "{TOKEN}"\n')
    place.path.chmod(0o600)
    assert config.load(place.path).sites[0].url == "https://h.example"


# -- nobody quotes one -----------------------------------------------------------------------------------------

PAIR = f"user:{TOKEN}"


@pytest.mark.parametrize("sent", [f"{TOKEN}\r", f"{TOKEN}\u200b", f"{TOKEN}é", f"{TOKEN}\n", f" {TOKEN}\0"])
@pytest.mark.parametrize("bulk", [False, True])
def test_what_a_library_says_of_a_header_is_not_passed_on(sent: str, bulk: bool) -> None:
    http = httpx.Client(transport=_direct() if bulk else httpx.HTTPTransport(), trust_env=False)
    with pytest.raises(LabfsError) as caught, translated("hub: GET /x"), http:
        http.get("http://127.0.0.1:9/", headers={"x-access-token": sent})
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(
    "url", ["http://[::1/{0}", "http://h:{0}/", "ftp://h/?Signature={0}", "http://a\x07/{0}", "http://127.0.0.1:99999/{0}",
            "http://127.0.0.1:1/?Signature={0}", "{0}", "http:///{0}", "http://h.invalid/?sig={0}"]
)  # fmt: skip
def test_what_a_library_says_of_an_address_is_not_passed_on(url: str, bulk: bool) -> None:
    http = httpx.Client(transport=_direct() if bulk else httpx.HTTPTransport(), trust_env=False)
    with pytest.raises(LabfsError) as caught, translated("hub: GET /x"), http:
        http.get(url.format("NEVER-SEEN-BEFORE"))
    assert "NEVER-SEEN-BEFORE" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [httpx.LocalProtocolError(f"Illegal header value b'{TOKEN}'"), httpx.RemoteProtocolError(f"illegal line {TOKEN}"),
     httpx.RemoteProtocolError(f"Invalid URL in location header: {TOKEN}"), httpx.InvalidURL(TOKEN), ValueError(TOKEN),
     UnicodeEncodeError("ascii", TOKEN, 0, 1, "x"), httpx.UnsupportedProtocol(TOKEN), httpx.ReadError(TOKEN),
     httpx.DecodingError(TOKEN), httpx.ConnectError(TOKEN), httpx.PoolTimeout(TOKEN)],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_no_text_of_a_library_is(error: Exception) -> None:
    with pytest.raises(LabfsError) as caught, translated("hub: GET /x"):
        raise error
    assert TOKEN not in str(caught.value)


def test_an_unexpected_exception_is_a_mistake_without_its_text() -> None:
    assert TOKEN not in sentence(KeyError(TOKEN))
    assert sentence(OSError(28, "No space left on device")) == "No space left on device"


@pytest.mark.parametrize("secret", [TOKEN, "Zürich+geheim/9&x", 'quo"te\\back', "日本語の秘密です"])
def test_a_known_secret_is_hidden_in_every_form(secret: str) -> None:
    secrecy.know(secret)
    raw = secret.encode()
    pairs = [base64.b64encode(name + b":" + raw).decode() for name in (b"a", b"ab", b"abc")]
    shown = [secret, repr(secret), repr(raw), httpx.URL("http://h/", params={"t": secret}).query.decode(), raw.hex()]
    for text in shown:
        assert secrecy.hidden(f"x {text} y").startswith("x ")
        assert secret not in secrecy.hidden(text)
        assert "…" in secrecy.hidden(text), text
    for text in pairs:
        assert secrecy.hidden(text) != text
    error = Malformed(f"the server says {secret}")
    assert error.said == "the server says …"


def test_a_log_and_its_tracebacks_hide_them() -> None:
    secrecy.know(TOKEN)
    try:
        raise ValueError(f"Illegal header value b'{TOKEN}\\r'")
    except ValueError:
        record = logging.LogRecord("x", 40, "", 0, "%s failed", (TOKEN,), sys.exc_info())
    line = secrecy.Formatter("%(message)s").format(record)
    assert TOKEN not in line
    assert line.startswith("… failed\nTraceback")


def test_addresses_lose_what_signs_them() -> None:
    text = "error for url (https://u:p@h/f?Signature=abc&X=1) and https://h/g?a=b, Signature=abc; x?y=z"
    assert secrecy.hidden(text) == "error for url (https://…@h/f?…) and https://h/g?… Signature=…; x?y=z"


def test_words_are_not_torn_by_a_short_secret() -> None:
    secrecy.know("a")
    assert secrecy.hidden("a plain sentence") == "a plain sentence"


def test_nothing_that_holds_a_secret_shows_it(place: Place) -> None:
    read = place.load("lims.password", "literal", TOKEN)
    ask = Ask(f"https://h/?Signature={TOKEN}", "hub", credentials={"x": TOKEN}, form={"token": TOKEN})
    answer = Answer(200, {"set-cookie": TOKEN}, TOKEN.encode(), "hub")
    (site,) = config.load(place.path).sites
    for value in (read, site, ask, answer, Address(f"https://h/?Signature={TOKEN}", 0.0), config.load(place.path)):
        assert TOKEN not in repr(value)


# -- passwords of any script -----------------------------------------------------------------------------------


def login(password: list[str]) -> Basic:
    return Basic(lambda: "müller", lambda: password[0])


def sent(headers: dict[str, str]) -> bytes:
    return base64.b64decode(headers["Authorization"].removeprefix("Basic "))


def test_latin_1_is_tried_once() -> None:
    basic = login(["geheim"])
    first = basic()
    assert sent(first) == "müller:geheim".encode()
    assert basic.another(first)
    second = basic()
    assert sent(second) == "müller:geheim".encode("latin-1")
    assert basic.another(first), "a request that was under way meanwhile"
    assert not basic.another(second)
    assert basic() == first, "what the standard says, where neither is right"
    assert not basic.another(first)


@pytest.mark.parametrize("password", ["geheim", "日本"])
def test_it_is_not_where_it_makes_no_difference_or_cannot_be(password: str) -> None:
    basic = Basic(lambda: "user", lambda: password)
    assert not basic.another(basic())


def test_a_new_password_is_tried_anew() -> None:
    known = ["alt-ä"]
    basic = login(known)
    refused = basic()
    assert basic.another(refused)
    assert not basic.another(basic())
    known[0] = "neu-ä"
    assert basic.another(refused)
    assert sent(basic()) == "müller:neu-ä".encode()


def test_marks_that_stand_alone_are_joined() -> None:
    assert sent(login(["u\u0308"])()) == "müller:ü".encode()


@pytest.mark.parametrize("reads", ["utf-8", "latin-1", "nothing"])
async def test_a_site_is_asked_once_more_at_the_first_refusal(reads: str) -> None:
    asked: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        pair = base64.b64decode(request.headers["Authorization"].partition(" ")[2])
        asked.append(pair)
        right = reads != "nothing" and pair == "müller:ä".encode(reads)
        return httpx.Response(200 if right else 401, json={})

    basic = login(["ä"])
    client = Client("lims", "https://h", basic, another=basic.another, transport=httpx.MockTransport(handler))
    for _ in range(3):
        if reads == "nothing":
            with pytest.raises(Unauthorized):
                await client.call(Request("GET", "x"))
        else:
            await client.call(Request("GET", "x"))
    assert len(asked) == {"utf-8": 3, "latin-1": 4, "nothing": 4}[reads]
    await client.aclose()


@pytest.mark.parametrize(
    ("kind", "secrets", "api"),
    [
        ("basespace", 'token = "secret of it"', "v1pre3"),
        ("clarity", 'username = "u"\npassword = "secret of it"', "api/v2"),
        ("odm", 'token = "secret of it"', "api/v1"),
        ("portal", 'token = "secret of it"', "v1"),
    ],
)
@pytest.mark.parametrize("end", ["", "/"])
def test_an_address_may_end_in_the_path_of_its_api(kind: str, secrets: str, api: str, end: str, tmp_path: Path) -> None:
    path = tmp_path / "labfs.toml"
    path.write_text(f'[sites.a]\nkind = "{kind}"\nurl = "https://lab.example/below/{api}{end}"\n{secrets}\n')
    path.chmod(0o600)
    assert config.load(path).sites[0].url == "https://lab.example/below"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[sites.a]\nkind = “basespace”\n", 'Line 2 has typographic quotes; write " instead.'),
        (
            '[sites.a]\nkind = "redcap"\nurl = "https://r.example/api/"\ntoken = "x"\n',
            'each project has a token of its own; write projects = { "study" = { token = { env = "NAME" } } }.',
        ),
    ],
)
def test_what_to_write_instead_is_said(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "labfs.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value).endswith(sentence)
