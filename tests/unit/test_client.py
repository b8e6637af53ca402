"""HTTP for one site, in virtual time: retries, deadlines, credentials and what each answer means."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import trio
from contract import Basket, Bytes
from network_stage import ranged

from labfs import errors
from labfs.backend import Stretch, dispensable, unhurried
from labfs.errors import secrecy
from labfs.http.client import COMPILING, Answer, Client, Patience, Request
from labfs.http.failures import refusal

Clock = trio.testing.MockClock
Handler = Callable[[httpx.Request], Any]


class Script(httpx.AsyncBaseTransport):
    """Answers requests in turn, and remembers them. An exception is raised, a number is a status."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        self.times.append(trio.current_time())
        await trio.sleep(0.01)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer == "hang":
            await trio.sleep_forever()
        return httpx.Response(answer) if isinstance(answer, int) else answer


def client(transport: Script, **options: Any) -> Client:
    return Client("hub", "https://hub.example/api", lambda: {"x-access-token": "secret"}, transport=transport,
                  bulk_transport=httpx.MockTransport(lambda _: httpx.Response(500)), **options)  # fmt: skip


OK = httpx.Response(200, json={"fine": True})


@pytest.mark.parametrize("first", [429, 500, 502, 503, 504, httpx.ReadError("x"), httpx.ReadTimeout("x"), httpx.ConnectError("x"),
                                   httpx.RemoteProtocolError("x")])  # fmt: skip
async def test_what_may_pass_is_tried_again(first: Any, autojump_clock: Clock) -> None:
    script = Script(first, first, OK)
    answer = await client(script).call(Request("GET", "v1/things"))
    assert (answer.json(), len(script.requests)) == ({"fine": True}, 3)
    assert str(script.requests[0].url) == "https://hub.example/api/v1/things"


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [({"body": b"<file/>"}, b"<file/>"), ({"json": {"a": 1}}, b'{"a":1}'), ({"form": {"a": "1 2"}}, b"a=1+2"), ({}, b"")],
)  # fmt: skip
async def test_a_body_arrives_at_every_try(sent: Any, arrives: bytes, autojump_clock: Clock) -> None:
    script = Script(503, OK)
    await client(script).call(Request("POST", "v1/things", **sent))
    assert [request.content for request in script.requests] == [arrives, arrives]


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, errors.Invalid), (401, errors.Denied), (403, errors.Denied), (404, errors.NotFound), (405, errors.Unsupported),
     (409, errors.Exists), (410, errors.NotFound), (412, errors.Stale), (413, errors.TooLarge), (302, errors.Malformed)],
)  # fmt: skip
async def test_what_is_meant_is_not(status: int, error: type[Exception], autojump_clock: Clock) -> None:
    script = Script(status)
    with pytest.raises(error) as caught:
        await client(script).call(Request("GET", "v1/things"))
    assert len(script.requests) == 1
    assert "secret" not in str(caught.value)


async def test_patience_ends_below_the_kernels(autojump_clock: Clock) -> None:
    for answer in (503, httpx.ConnectError("x"), "hang"):
        began = trio.current_time()
        with pytest.raises(errors.Unavailable):
            await client(Script(answer)).call(Request("GET", "v1/things"))
        assert trio.current_time() - began < 17


async def test_a_wait_longer_than_patience_is_refused_at_once(autojump_clock: Clock) -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "14388"}))
    with pytest.raises(errors.Unavailable):
        await client(script).call(Request("GET", "v1/things"))
    assert trio.current_time() < 1


async def test_the_servers_wish_is_kept(autojump_clock: Clock) -> None:
    script = Script(httpx.Response(503, headers={"Retry-After": "7"}), OK)
    await client(script).call(Request("GET", "v1/things"))
    assert 7 <= script.times[1] - script.times[0] < 8


@pytest.mark.parametrize(
    ("first", "again"), [(500, False), (httpx.ReadError("x"), False), (503, True), (httpx.ConnectError("x"), True)]
)
async def test_what_may_have_been_carried_out_is_not_sent_twice(first: Any, again: bool, autojump_clock: Clock) -> None:
    script = Script(first, OK)
    if again:
        await client(script).call(Request("POST", "v1/things", json={}, repeatable=False, patience=Patience.PERSISTENT))
    else:
        with pytest.raises(errors.Unanswered):
            await client(script).call(
                Request("POST", "v1/things", json={}, repeatable=False, patience=Patience.PERSISTENT)
            )
    assert len(script.requests) == 1 + again


async def test_what_was_long_in_vain_is_not_asked_for_again_for_a_list(autojump_clock: Clock) -> None:
    """The server may be at work on it still; what fails at once is tried again as ever."""

    class Slow(Script):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await trio.sleep(10)
            return await super().handle_async_request(request)

    for first in (httpx.ReadTimeout("x"), 504, httpx.ReadError("x")):
        script = Slow(first, OK)
        with unhurried(), pytest.raises(errors.Unanswered):
            await client(script, timeout_s=8.0).call(Request("GET", "v1/list"))
        assert len(script.requests) == 1
        assert script.requests[0].extensions["timeout"]["read"] == COMPILING * 8.0
        script = Script(first, OK)
        with unhurried():
            await client(script, timeout_s=8.0).call(Request("GET", "v1/list"))
        with unhurried(), dispensable():
            await client(script, timeout_s=8.0).call(Request("GET", "v1/size"))
        assert len(script.requests) == 3
        assert script.requests[2].extensions["timeout"]["read"] == 8.0


async def test_a_silent_origin_is_left_alone_and_probed_later(autojump_clock: Clock) -> None:
    script = Script(httpx.ConnectError("x"))
    hub = client(script)
    for _ in range(3):
        with pytest.raises(errors.Unavailable):
            await hub.call(Request("GET", "v1/things"))
    asked, now = len(script.requests), trio.current_time()
    with pytest.raises(errors.Unavailable, match="has not answered since"):
        await hub.call(Request("GET", "v1/things"))
    assert trio.current_time() - now < 13
    assert hub.outage is not None
    script.answers = [OK]
    await trio.sleep(21)
    await hub.call(Request("GET", "v1/things"))
    assert (hub.outage, len(script.requests) > asked) == (None, True)


async def test_an_origin_that_answers_with_errors_is_not_silent(autojump_clock: Clock) -> None:
    script = Script(500)
    hub = client(script)
    for _ in range(3):
        with pytest.raises(errors.Unavailable):
            await hub.call(Request("GET", "v1/things"))
    assert hub.outage is None


async def test_never_more_requests_at_once_than_agreed(autojump_clock: Clock) -> None:
    most = now = 0

    class Counting(Script):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal most, now
            now += 1
            most = max(most, now)
            try:
                return await super().handle_async_request(request)
            finally:
                now -= 1

    hub = client(Counting(OK), connections=3)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(hub.call, Request("GET", "v1/things"))
    assert most == 3


async def test_a_cancelled_call_gives_its_place_back(autojump_clock: Clock) -> None:
    script = Script("hang", OK)
    hub = client(script, connections=1)
    with trio.move_on_after(1):
        await hub.call(Request("GET", "v1/things"))
    assert (await hub.call(Request("GET", "v1/things"))).json() == {"fine": True}


@pytest.mark.parametrize("body", [b"<html><body>Sign in</body></html>", b"", b"{", b"\xff\xfe"])
async def test_what_is_not_json_is_told_plainly(body: bytes, autojump_clock: Clock) -> None:
    answer = await client(Script(httpx.Response(200, content=body))).call(Request("GET", "v1/things"))
    with pytest.raises(errors.Malformed):
        answer.json()


async def test_an_endless_answer_is_cut_off(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labfs.http.client.LONGEST_ANSWER", 1000)
    with pytest.raises(errors.Malformed, match="more than"):
        await client(Script(httpx.Response(200, content=bytes(1001)))).call(Request("GET", "v1/things"))


def moved(status: int, there: str) -> httpx.Response:
    return httpx.Response(status, headers={"Location": there})


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_site_that_asks_for_https_is_asked_by_https_from_then_on(
    status: int, method: str, autojump_clock: Clock
) -> None:
    script = Script(moved(status, "https://hub.example/lims/v1/things?a=1"), OK)
    hub = Client("hub", "http://hub.example/lims", lambda: {"x-access-token": "secret"}, transport=script)
    for _ in range(2):
        await hub.call(Request(method, "v1/things", params={"a": "1"}, repeatable=False))
    assert [(request.method, str(request.url).partition("?")[0]) for request in script.requests] == [
        (method, "http://hub.example/lims/v1/things"),
        *[(method, "https://hub.example/lims/v1/things")] * 2,
    ]


async def test_all_that_were_under_way_when_a_site_asked_for_https_are_asked_there(autojump_clock: Clock) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        await trio.sleep(0.1)
        return OK if request.url.scheme == "https" else moved(301, str(request.url.copy_with(scheme="https")))

    hub = Client("hub", "http://hub.example", dict, transport=httpx.MockTransport(answer))
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(hub.call, Request("POST", "v1/things"))


async def test_bytes_of_a_site_that_asks_for_https_are_fetched_there_with_credentials(autojump_clock: Clock) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.scheme == "http":
            return moved(301, str(request.url.copy_with(scheme="https", port=8443)))
        return body(200, DATA, {"Content-Length": str(len(DATA))})

    hub = Client("hub", "http://hub.example", lambda: {"x-access-token": "secret"},
                 bulk_transport=httpx.MockTransport(answer))  # fmt: skip
    for form in (None, {"content": "file"}):
        await hub.pour_own("file", Basket(), form=form)
    assert [request.url.scheme for request in seen] == ["http", "https"] * 2
    assert {request.headers["x-access-token"] for request in seen} == {"secret"}
    assert [request.method for request in seen] == ["GET"] * 2 + ["POST"] * 2
    await hub.aclose()


@pytest.mark.parametrize(
    "there", ["https://other.example/api/v1/things", "http://hub.example/api/v1/things", "https://hub.example/login", "//[", ""]
)  # fmt: skip
async def test_no_other_redirect_is_followed_with_credentials(there: str, autojump_clock: Clock) -> None:
    script = Script(moved(302, there), OK)
    for url in ("http://hub.example/api", "https://hub.example/api"):
        script.answers = [moved(302, there), OK]
        hub = Client("hub", url, lambda: {"x-access-token": "secret"}, transport=script)
        with pytest.raises(errors.Malformed):
            await hub.call(Request("GET", "v1/things"))
    assert len(script.requests) == 2


# -- file bytes ------------------------------------------------------------------------------------------


def fetching(handler: Handler) -> Client:
    return Client("hub", "https://hub.example", lambda: {"x-access-token": "secret"}, transport=Script(OK),
                  bulk_transport=httpx.MockTransport(handler), timeout_s=1)  # fmt: skip


DATA = bytes(range(256)) * 4


def body(status: int, data: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    """Return an answer whose body arrives as a stream, as it does from a socket."""
    return httpx.Response(status, stream=httpx.ByteStream(data), headers=headers)


def partial(request: httpx.Request, **headers: str) -> httpx.Response:
    start, stop = (int(n) for n in request.headers["range"].removeprefix("bytes=").split("-"))
    return body(206, DATA[start : stop + 1],
                          headers={"Content-Range": f"bytes {start}-{stop}/{len(DATA)}", **headers})  # fmt: skip


async def test_exactly_the_range_without_credentials() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return partial(request, ETag='"v1"')

    assert bytes(await ranged(fetching(handler), "https://store.example/f?Signature=s", 10, 20, "v1")) == DATA[10:20]
    (request,) = seen
    assert request.headers["if-match"] == '"v1"'
    assert request.headers["accept-encoding"] == "identity"
    assert not {"authorization", "x-access-token", "cookie"} & set(request.headers)


async def test_a_range_that_is_ignored_is_cut_out_of_the_whole() -> None:
    assert bytes(await ranged(fetching(lambda _: body(200, DATA)), "https://s/f", 10, 20, None)) == DATA[10:20]


@pytest.mark.parametrize("size", [1, 7, 13, 100, 1024])
@pytest.mark.parametrize("step", [1, 10, 64, 300])
async def test_pieces_are_cut_out_of_whatever_chunks_come(size: int, step: int) -> None:
    chunks = [DATA[start : start + size] for start in range(0, len(DATA), size)]
    headers = {"Content-Length": str(len(DATA))}
    answer = fetching(lambda _: httpx.Response(200, headers=headers, stream=Chunks(*chunks)))
    pieces: list[tuple[int, bytes]] = []
    await answer.stream(
        "https://s/f", Stretch(33, 333, step, lambda at, piece: pieces.append((at, bytes(piece)))), None
    )
    assert pieces == [(start, DATA[start : min(start + step, 333)]) for start in range(33, 333, step)]


@pytest.mark.parametrize(
    "handler",
    [
        lambda request: body(206, DATA[:10], headers={"Content-Range": "bytes 0-9/1024"}),
        lambda request: body(206, DATA[10:19], headers={"Content-Range": "bytes 10-19/1024"}),
        lambda request: body(206, DATA[10:20]),
        lambda request: body(200, DATA[:15]),
        lambda request: httpx.Response(503, headers={"Retry-After": "0"}),
    ],
)
async def test_a_body_that_is_not_the_range_is_no_answer(handler: Handler) -> None:
    with pytest.raises(errors.Unavailable):
        await ranged(fetching(handler), "https://s/f", 10, 20, None)


async def test_a_stretch_comes_in_pieces_and_goes_on_where_an_answer_ended() -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["range"])
        start, stop = map(int, asked[-1].removeprefix("bytes=").split("-"))
        headers = {"Content-Range": f"bytes {start}-{stop}/{len(DATA)}"}
        return body(206, DATA[start : min(stop + 1, start + 250)], headers=headers)

    pieces: list[tuple[int, bytes]] = []
    stretch = Stretch(7, 500, 100, lambda offset, piece: pieces.append((offset, bytes(piece))))
    await fetching(handler).stream("https://s/f", stretch, None)
    assert asked == ["bytes=7-499", "bytes=207-499", "bytes=407-499"], "what came whole is not asked for again"
    assert pieces == [(start, DATA[start : min(start + 100, 500)]) for start in range(7, 500, 100)]


async def test_an_answer_without_progress_ends_a_stretch() -> None:
    pieces: list[int] = []
    stretch = Stretch(0, 300, 100, lambda offset, piece: pieces.append(offset))
    cut = fetching(lambda request: body(206, DATA[:150], headers={"Content-Range": "bytes 0-299/1024"}))
    with pytest.raises(errors.Unavailable):
        await cut.stream("https://s/f", stretch, None)
    assert (pieces, stretch.next) == ([0], 100), "what arrived before the error is taken"


async def test_another_version_is_stale() -> None:
    with pytest.raises(errors.Stale):
        await ranged(fetching(lambda request: partial(request, ETag='"v2"')), "https://s/f", 10, 20, "v1")
    with pytest.raises(errors.Stale):
        await ranged(fetching(lambda _: body(412, b"")), "https://s/f", 10, 20, "v1")


class Chunks(httpx.SyncByteStream):
    """A body that comes in chunks, and whose length nothing tells."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks


@pytest.mark.parametrize(
    ("status", "data", "error"),
    [(206, DATA[10:19], errors.Malformed), (206, DATA[10:21], errors.Malformed), (200, DATA, errors.Unranged)],
)
async def test_packed_bytes_are_refused(status: int, data: bytes, error: type[Exception]) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Range": "bytes 10-19/1024"}
    answer = fetching(lambda _: httpx.Response(status, headers=headers, stream=Chunks(data)))
    with pytest.raises(error):
        await ranged(answer, "https://s/f", 10, 20, None, len(DATA))


async def test_labelled_bytes_are_taken_as_they_are() -> None:
    headers = {"Content-Encoding": "gzip", "Content-Range": "bytes 10-19/1024"}
    answer = fetching(lambda _: httpx.Response(206, headers=headers, stream=Chunks(DATA[10:20])))
    assert bytes(await ranged(answer, "https://s/f", 10, 20, None, len(DATA))) == DATA[10:20]


async def test_redirects_are_followed_a_few_times() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "one":
            return httpx.Response(302, headers={"Location": "https://two/f"})
        return (
            partial(request) if request.url.host == "two" else httpx.Response(302, headers={"Location": "https://x/"})
        )

    assert bytes(await ranged(fetching(handler), "https://one/f", 0, 5, None)) == DATA[:5]
    with pytest.raises(errors.Malformed, match="redirected"):
        await ranged(fetching(handler), "https://loop/f", 0, 5, None)


def test_an_answer_that_is_html_names_the_url() -> None:
    answer = Answer(200, {"content-type": "text/html"}, b"<html>", "hub: GET /x")
    with pytest.raises(errors.Malformed, match="a web page"):
        answer.json()


async def test_no_second_at_the_server_sees_more_than_the_pace_however_late_requests_arrive(
    autojump_clock: Clock,
) -> None:
    arrivals: list[float] = []
    chance = random.Random(3)

    async def answer(request: httpx.Request) -> httpx.Response:
        await trio.sleep(chance.uniform(0, 0.8))  # on its way
        arrivals.append(trio.current_time())
        await trio.sleep(chance.uniform(0, 0.1))
        return httpx.Response(200, json={})

    paced = Client("slow", "https://slow.example", dict, requests_per_s=5, transport=httpx.MockTransport(answer))
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(paced.call, Request("GET", "x"))
        await trio.sleep(1.5)
        nursery.cancel_scope.deadline = trio.current_time() + 300
    assert len(arrivals) == 50, "waiting for a turn is no silence"
    arrivals.sort()
    assert min(later - earlier for earlier, later in zip(arrivals, arrivals[5:], strict=False)) >= 1.0
    await paced.aclose()


# -- what an answer tells of the fate of a change ----------------------------------------------------------------

PAGE = {"content-type": "text/html; charset=utf-8"}
OWN = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("answer", "lost"),
    [(httpx.Response(status, headers=PAGE, content=b"<html>Bad gateway</html>"), True) for status in (200, 201, 408, 500, 502, 503, 504, 520, 524)]
    + [(httpx.Response(status, headers=OWN, content=b'{"error": "x"}'), status != 500) for status in (408, 500, 502, 504, 522)]
    + [(httpx.Response(500), True), (httpx.ReadError("x"), True), (httpx.RemoteProtocolError("x"), True),
       (httpx.ReadTimeout("x"), True), (httpx.WriteError("x"), True)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_change_whose_fate_is_not_told_is_a_lost_answer(
    method: str, answer: Any, lost: bool, autojump_clock: Clock
) -> None:
    def explain(answer: Answer) -> str:
        return str(answer.json()["error"]) if b"error" in answer.body else ""

    with pytest.raises(errors.Unanswered) as caught:
        await client(Script(answer), explain=explain).call(Request(method, "v1/things", repeatable=False))
    assert caught.value.lost is lost


@pytest.mark.parametrize("body", [b"", b"{}", b" [] ", b"ERROR: no", b'<?xml version="1.0"?><file/>'])
async def test_a_type_alone_makes_no_web_page(body: bytes, autojump_clock: Clock) -> None:
    kind = "application/xml" if body.startswith(b"<") else PAGE["content-type"]
    answer = httpx.Response(200, headers={"content-type": kind}, content=body)
    assert (await client(Script(answer)).call(Request("POST", "v1/things", repeatable=False))).body == body


@pytest.mark.parametrize(("status", "error"), [(413, errors.TooLarge), (403, errors.Denied), (404, errors.NotFound),
                                               (501, errors.Unsupported), (507, errors.NoSpace)])  # fmt: skip
async def test_a_refusal_is_one_whoever_says_so(status: int, error: type[Exception], autojump_clock: Clock) -> None:
    answer = httpx.Response(status, headers=PAGE, content=b"<html>No</html>")
    with pytest.raises(error):
        await client(Script(answer)).call(Request("POST", "v1/things", repeatable=False))


async def test_a_refused_connection_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    client = Client("hub", f"http://localhost:{port}/", dict, timeout_s=0.5)
    try:
        with pytest.raises(errors.Unavailable, match="cannot be reached \\(Connection refused\\)"):
            await client.call(Request("GET", "v1/things"))
    finally:
        await client.aclose()


# -- an address that carries its own signature ---------------------------------------------------------------


def signed(size: int) -> Request:
    return Request("PUT", "https://store.example/key?Signature=x", source=Bytes(bytes(size)), signed=True)


async def test_a_signed_address_is_sent_no_credentials() -> None:
    script = Script(OK)
    await client(script).call(signed(10))
    (sent,) = script.requests
    assert (str(sent.url), "x-access-token" in sent.headers) == ("https://store.example/key?Signature=x", False)
    assert sent.headers["content-length"] == "10"


async def test_a_refusal_of_the_store_is_not_one_of_the_sites_credentials(autojump_clock: Clock) -> None:
    script = Script(httpx.Response(401))
    with pytest.raises(errors.Unauthorized):
        await client(script, another=lambda refused: True).call(signed(10))
    assert len(script.requests) == 1, "other credentials would be refused as well: none were sent"


async def test_the_limit_of_the_site_is_not_the_stores() -> None:
    script = Script(httpx.Response(413), OK)
    hub = client(script)
    body = Request("POST", "v1/files", source=Bytes(bytes(200_000)), repeatable=False)
    with pytest.raises(errors.TooLarge):
        await hub.call(body)
    await hub.call(signed(300_000))
    with pytest.raises(errors.TooLarge, match="not sent"):
        await hub.call(body)


async def test_a_redirect_of_the_store_does_not_move_the_site() -> None:
    script = Script(httpx.Response(308, headers={"location": "https://store.example/key?Signature=x"}))
    hub = Client("hub", "http://127.0.0.1/api", dict, transport=script,
                 bulk_transport=httpx.MockTransport(lambda _: httpx.Response(500)))  # fmt: skip
    with pytest.raises(errors.Malformed):
        await hub.call(Request("PUT", "http://store.example/key?Signature=x", source=Bytes(b"x"), signed=True))
    assert hub.url == "http://127.0.0.1/api/"


def test_each_refusal_has_a_remedy_of_its_own_and_keeps_its_words_apart() -> None:
    told = {
        status: refusal(status, {}, "hub: GET f", "hub: GET f: It says no")
        for status in (*range(400, 430), *range(500, 530))
    }
    remedies = {status: error.remedy for status, error in told.items() if status != 401}
    assert len(set(remedies.values())) == len(remedies)
    assert all(f"({status})" in remedy and "{" not in remedy for status, remedy in remedies.items())
    assert {error.said for error in told.values()} == {"hub: GET f: It says no."}
    assert str(told[429]) == f"hub: GET f: It says no. {remedies[429]}"
    assert refusal(403, {}, "hub: GET f", "", rights="Ask Ada.").remedy == "Ask Ada."
    assert refusal(302, {}, "hub: GET f", "").remedy == errors.Malformed.remedy


@pytest.mark.parametrize(
    ("number", "shown"),
    [("8f3a-01:B=", "The request's id is 8f3a-01:B=."), ("<b>1</b>", ""), ("x" * 101, ""), ("a secret", ""), ("", "")],
)
def test_a_request_id_is_told_if_it_is_one(number: str, shown: str) -> None:
    remedy = refusal(500, {"x-request-id": number}, "hub: GET f", "").remedy
    assert remedy.removeprefix(refusal(500, {}, "hub: GET f", "").remedy).strip() == shown


def test_a_secret_that_comes_back_as_a_request_id_is_hidden() -> None:
    secrecy.know("0123-token-4567")
    assert "0123-token" not in refusal(500, {"x-request-id": "0123-token-4567"}, "hub: GET f", "").remedy
