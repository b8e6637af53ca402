"""A front before each system that passes requests on, until it is told to spoil answers with what it was sent."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx

Answer = tuple[int, dict[str, str], bytes] | bytes  # or raw bytes, and the end of the connection
Spoil = Callable[[str, str], Answer]  # by site and by the secrets that came

XML = '<exc:exception xmlns:exc="http://genologics.com/ri/exception" code="{0}"><message>{1}</message></exc:exception>'


def said(site: str, status: int, secrets: str) -> Answer:
    """Return an error in the system's own form that quotes the secrets."""
    if site == "clarity":
        return status, {"Content-Type": "application/xml"}, XML.format(status, secrets).encode()
    body = {"ResponseStatus": {"Message": secrets}, "detail": secrets}
    body["error"] = {"message": secrets} if site == "odm" else secrets
    return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


def location(address: str) -> Spoil:
    return lambda site, secrets: (302, {"Location": address.format(secrets.replace(" ", "-"))}, b"")


PAGE = {"Content-Type": "text/html"}
SPOILS: dict[str, Spoil] = {
    "401": lambda site, secrets: said(site, 401, secrets),
    "400": lambda site, secrets: said(site, 400, secrets),
    "403": lambda site, secrets: said(site, 403, secrets),
    "404": lambda site, secrets: said(site, 404, secrets),
    "page": lambda site, secrets: (200, PAGE, f"<html>{secrets}</html>".encode()),
    "broken": lambda site, secrets: (200, {"Content-Type": "application/json"}, f'{{"{secrets}'.encode()),
    "odd": lambda site, secrets: (200, {"X-Odd": secrets}, json.dumps({"Response": {"Items": secrets}}).encode()),
    "element": lambda site, secrets: (200, {}, f"<{secrets.split()[-1].partition(':')[0]}/>".encode()),
    "no address": location("http://[::1/{0}"),
    "no port": location("http://127.0.0.1:{0}/?token={0}"),
    "no scheme": location("ftp://{0}/"),
    "500": lambda site, secrets: said(site, 500, secrets),
    "status line": lambda site, secrets: f"HTTP/1.1 {secrets}\r\n\r\n".encode(),
    "header": lambda site, secrets: f"HTTP/1.1 200 OK\r\nno header {secrets}\r\n\r\n".encode(),
    "no HTTP": lambda site, secrets: f"{secrets}\r\n".encode(),
    "cut": lambda site, secrets: f"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{secrets}".encode(),
    "reset": lambda site, secrets: b"",
}


PASSING = ("page", "500", "status line", "header", "no HTTP", "cut", "reset")  # what a client may try again


class Front:
    """The fronts of all systems; `cast` says what becomes of a site's answers, `urls` where they are."""

    def __init__(self, sites: dict[str, str]) -> None:
        self.cast: dict[str, str] = {}
        self.http = httpx.Client(timeout=30, trust_env=False)
        self.servers = {site: self._server(site, url) for site, url in sites.items()}
        self.urls = {site: f"127.0.0.1:{server.server_port}" for site, server in self.servers.items()}
        for server in self.servers.values():
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def close(self) -> None:
        for server in self.servers.values():
            server.shutdown()
            server.server_close()
        self.http.close()

    def _server(self, site: str, url: str) -> ThreadingHTTPServer:
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                spoil = SPOILS.get(front.cast.get(site, ""))
                if spoil is None:
                    self._tell(*front.passed_on(url, self, body))
                    return
                answer = spoil(site, " ".join(secrets_in(self.headers, body)))
                if isinstance(answer, bytes):
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.wfile.write(answer)
                else:
                    self._tell(*answer)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = answer  # noqa: N815

            def _tell(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "content-length" not in {name.lower() for name in headers}:
                    self.send_header("Content-Length", str(len(body)))
                with contextlib.suppress(OSError):  # nobody waits for it any more
                    self.end_headers()
                    self.wfile.write(body if self.command != "HEAD" else b"")

            def log_message(self, *_: Any) -> None:
                pass

        return ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def passed_on(self, url: str, asked: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        drop = {"host", "connection", "accept-encoding", "transfer-encoding"}
        headers = {name: value for name, value in asked.headers.items() if name.lower() not in drop}
        headers["Accept-Encoding"] = "identity"
        answer = self.http.request(asked.command, url + asked.path, headers=headers, content=body)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in drop}
        return answer.status_code, kept, answer.content


def secrets_in(headers: Any, body: bytes) -> list[str]:
    """Return what identifies the asker, in the forms in which it came."""
    found = [headers[name] for name in ("x-access-token", "authorization", "genestack-api-token") if headers[name]]
    found += [base64.b64decode(value.partition(" ")[2]).decode() for value in found if value.startswith("Basic ")]
    if b"token=" in body[:200]:
        found += parse_qs(body[:500].decode("latin-1")).get("token", [])
    if b'name="token"' in body[:500]:
        found.append(body.partition(b'name="token"')[2].split()[0].decode())
    return found or ["nobody"]


@contextlib.contextmanager
def opened(sites: dict[str, str]) -> Iterator[Front]:
    front = Front(sites)
    try:
        yield front
    finally:
        front.close()
