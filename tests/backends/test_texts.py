"""Text that is none, in every system: a name of odd bytes is one odd entry, and all else is as ever."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import five_stage
import httpx
import pytest
from five_stage import SITES, Lab
from stage import Mount, Sandbox, labfs

from labfs.backends.redcap.wire import Wire
from labfs.http import texts
from labfs.http.client import Client
from labfs.tree import names

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]

PLAIN, ODD = b"the plain one\n", b"the odd one\n"
NAME = "odd QQQQ.txt"
JSON_SITES = [site for site in SITES if site != "clarity"]


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        for site in SITES:
            if site != "redcap":
                made.put(site, "plain.txt", PLAIN)
            made.put(site, NAME, ODD)
        yield made


@pytest.fixture(scope="module")
def drive(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    mount = Mount(tmp_path_factory.mktemp("texts"), lab.sandbox.config)
    try:
        yield mount.start()
    finally:
        lab.sandbox.faults()
        mount.clean_up()


def shown(lab: Lab, drive: Mount, site: str, argument: object) -> list[str]:
    """Return what a directory lists whose system answers so."""
    lab.sandbox.faults({"service": site, "action": "rewrite", "argument": argument, "times": None})
    drive.refresh(drive.path / site)
    return sorted(os.listdir(drive.path / lab.places[site]))


def beside(site: str) -> list[str]:
    return [] if site == "redcap" else ["plain.txt"]


def check(lab: Lab, drive: Mount, site: str, found: list[str], name: str) -> None:
    """Both files are there, and have their bytes; what is said of the odd one can be read."""
    place = drive.path / lab.places[site]
    assert found == sorted([name, *beside(site)])
    assert (place / name).read_bytes() == ODD
    if beside(site):
        assert (place / "plain.txt").read_bytes() == PLAIN
    assert os.getxattr(place / name, "user.labfs.site") == site.encode()
    assert drive.ask(op="info", path=f"/{place.relative_to(drive.path)}/{name}")["user.labfs.site"] == site
    folder = place.parent if site in ("odm", "redcap") else place
    json.loads((folder / ".meta.json").read_bytes())


BYTE = [["odd QQQQ", "odd \xe9"]]
HIDDEN = "odd %ED%B3%A9.txt"


@pytest.mark.parametrize("site", SITES)
def test_a_byte_that_is_no_utf_8_is_one_odd_entry(lab: Lab, drive: Mount, site: str) -> None:
    check(lab, drive, site, shown(lab, drive, site, BYTE), HIDDEN)
    told = labfs("info", drive.path / lab.places[site] / HIDDEN, env=drive.env)
    assert (told.returncode, told.stderr) == (0, "")
    assert drive.status()["uploads"] == []
    assert "Traceback" not in drive.log


@pytest.mark.parametrize("site", SITES)
def test_what_is_said_to_be_latin_1_is_read_so_where_it_is_no_utf_8(lab: Lab, drive: Mount, site: str) -> None:
    kind = "application/json; charset=ISO-8859-1"
    argument: dict[str, object] = {"bytes": BYTE, "type": kind}
    if site == "clarity":
        argument = {"bytes": [*BYTE, ['encoding="UTF-8"', 'encoding="ISO-8859-1"']]}
    if site == "redcap":
        argument.pop("type")  # bytes of files come from the same address
        check(lab, drive, site, shown(lab, drive, site, argument), HIDDEN)
        return
    check(lab, drive, site, shown(lab, drive, site, argument), "odd é.txt")


@pytest.mark.parametrize("site", JSON_SITES)
def test_half_a_pair_and_nothing_at_all_are_letters_too(lab: Lab, drive: Mount, site: str) -> None:
    found = shown(lab, drive, site, [["odd QQQQ", "odd \\ud800\\u0000\x01"]])
    check(lab, drive, site, found, "odd %ED%A0%80%00%01.txt")


def test_xml_holds_what_no_xml_can(lab: Lab, drive: Mount) -> None:
    found = shown(lab, drive, "clarity", [["odd QQQQ", "odd &#xD800;&#0;\x01\xff"]])
    check(lab, drive, "clarity", found, "odd %ED%A0%80%00%01%ED%B3%BF.txt")


def test_xml_of_other_encodings_is_read(lab: Lab, drive: Mount) -> None:
    odd = "odd 日".encode("shift_jis").decode("latin-1")
    found = shown(lab, drive, "clarity", [["odd QQQQ", odd], ['encoding="UTF-8"', 'encoding="Shift_JIS"']])
    check(lab, drive, "clarity", found, "odd 日.txt")


def test_a_label_hides_no_project(lab: Lab, drive: Mount) -> None:
    """The label of a field is nothing to labfs; it hid the whole project."""
    before = shown(lab, drive, "redcap", [])
    assert before == [NAME]
    assert shown(lab, drive, "redcap", [["field_label", "field_label\xe9\xff"], ['": "', '":\t"']]) == before


def test_a_byte_order_mark_is_nothing(lab: Lab, drive: Mount) -> None:
    lab.sandbox.faults(
        {"service": "basespace", "action": "rewrite", "argument": {"before": "\xef\xbb\xbf"}, "times": None},
        {"service": "portal", "action": "rewrite", "argument": {"before": "\xef\xbb\xbf"}, "times": None},
        {"service": "odm", "route": "*/by/*", "action": "rewrite", "argument": {"before": "\xef\xbb\xbf"}, "times": None},
        {"service": "clarity", "route": "*/retrieve", "action": "rewrite", "argument": {"before": "\xef\xbb\xbf"},
         "times": None},
    )  # fmt: skip
    for site in SITES:
        drive.refresh(drive.path / site)
        assert NAME in os.listdir(drive.path / lab.places[site]), site


def test_a_name_that_is_no_text_cannot_be_made(lab: Lab, drive: Mount) -> None:
    lab.sandbox.faults()
    for site in ("basespace", "clarity", "odm", "portal"):
        with pytest.raises(OSError, match="Invalid argument"):
            (drive.path / lab.places[site] / "new %ED%B3%A9.txt").write_bytes(b"x")


# -- without a mount -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["plain", "é", "a\udce9", "\ud800", "\udfff\udc80\udcff é"])
def test_odd_letters_have_names_and_bytes(text: str) -> None:
    assert names.original(names.safe(text)) == text
    assert texts.encoded(text)
    if all(not "\ud800" <= letter <= "\udfff" or "\udc80" <= letter <= "\udcff" for letter in text):
        assert texts.encoded(text).decode("utf-8", "surrogateescape") == text


def test_a_byte_goes_back_as_it_came() -> None:
    assert texts.urlencoded({"record": "T\udce9", "fields[0]": "a b"}) == "record=T%E9&fields%5B0%5D=a+b"


async def test_a_name_of_odd_bytes_is_asked_for_by_them() -> None:
    asked: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        return httpx.Response(200, stream=httpx.ByteStream(b'[{"record_id": "T\xe9"}]'))

    client = Client("redcap", "https://h", dict, transport=httpx.MockTransport(handler))
    wire = Wire(client, {"study": lambda: "a-token"})
    (row,) = await wire.rows("study", "record")
    await wire.rows("study", "record", records=[row["record_id"]])
    assert b"&records%5B0%5D=T%E9" in asked[1]
    await client.aclose()


@pytest.mark.parametrize("said", ["no-such-charset", "rot13", "zlib", "idna", "utf-8", None])
def test_a_charset_that_is_none_is_ignored(said: str | None) -> None:
    assert texts.decoded(b"x\xe9", said) == "x\udce9"


@pytest.mark.parametrize("reference", ["&#1114112;", "&#x110000;", "&#65;", "&amp;"])
def test_references_that_are_none_stay(reference: str) -> None:
    assert texts.xml_of(f"<a>{reference}</a>".encode(), {}) == f"<a>{reference}</a>"


def test_other_letters_stand_for_themselves() -> None:
    text = texts.xml_of("<a>x\x01é日</a>".encode(), {})
    assert texts.meant(ET.fromstring(text).text or "") == "x\x01é日"
