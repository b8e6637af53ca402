"""The route of a request: directly or through which proxy, decided in one place for all HTTP clients.

A site's own `proxy` is the whole rule for that site. Else the environment is read as curl reads it (curl(1), and
lib/url.c and lib/noproxy.c of 8.x): `http_proxy` in lower case only, since a header `Proxy` comes to CGI programs as
HTTP_PROXY; `https_proxy` and `all_proxy` in both, lower case first; without a scheme it is http, without a port 1080,
or 443 for https. `socks://` is what GNOME writes for a SOCKS proxy of any version: 5, which GNOME itself tries first.

Tests: unit/test_routes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, unquote, urlsplit

from labfs.errors import ConfigError
from labfs.errors.secrecy import know

PORTS = {"http": 80, "https": 443}  # of sites
SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
VARIABLES = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")
DIRECT = ("", "none")
HOSTNAME = re.compile(r"[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the variable or key that names it. Its text shows no password."""

    scheme: str
    host: str
    port: int
    source: str
    user: str | None = None
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.authority} (from {self.source})"

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def socks(self) -> bool:
        return self.scheme.startswith("socks")

    @property
    def looks_up(self) -> bool:
        """Whether the proxy resolves host names; else this machine does."""
        return self.scheme in ("http", "https", "socks4a", "socks5h")

    @property
    def url(self) -> str:
        """Return the proxy's url, with user and password for a SOCKS proxy: an HTTP proxy gets them in a header."""
        own = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.socks and self.user else ""
        return f"{self.scheme}://{own}{self.authority}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that are sent to an HTTP proxy only."""
        if self.socks or self.user is None:
            return {}
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {pair}"}


class Route:
    """Decides which proxy to use for each address of a site's requests."""

    def __init__(self, site: str, own: Callable[[], str] | None, environ: Mapping[str, str]) -> None:
        self._site = site
        self._own = None if own is None else own().strip()
        self._named = {name: value for name in VARIABLES if (value := environ.get(name, "").strip())}
        self._exempt = Exempt(self._named.get("no_proxy") or self._named.get("NO_PROXY") or "")
        self._known: dict[tuple[str, str, int], Proxy | None] = {}

    def of(self, url: str) -> Proxy | None:
        """Return the proxy for an address; None for a direct connection. Raises ConfigError for an unusable proxy."""
        parts = urlsplit(url)
        place = (parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0))
        if place not in self._known:
            self._known[place] = self._decide(*place)
        return self._known[place]

    def _decide(self, scheme: str, host: str, port: int) -> Proxy | None:
        if self._own is not None:
            return None if self._own.lower() in DIRECT else parsed(self._site, "its key proxy", self._own)
        if self._exempt.covers(host, port):
            return None
        for name in (f"{scheme}_proxy", *(["HTTPS_PROXY"] if scheme == "https" else []), "all_proxy", "ALL_PROXY"):
            if name in self._named:
                return parsed(self._site, name, self._named[name])
        return None


def parsed(site: str, source: str, value: str) -> Proxy:
    """Return the proxy that a variable or a key names. Raises ConfigError that does not show the value."""
    cannot = f"{site}: the proxy in {source}"
    scheme, sep, rest = value.partition("://")
    scheme, rest = (scheme.lower(), rest) if sep else ("http", value)
    scheme = {"socks": "socks5h"}.get(scheme, scheme)
    if scheme not in SCHEMES:
        raise ConfigError(f"{cannot} is of a kind that labfs cannot use; it can use {', '.join(SCHEMES)}.")
    login, _, place = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    try:
        host, port = _place(place)
    except ValueError:
        hint = "; in its password / ? # and % are written %2F %3F %23 and %25" if "@" in rest else ""
        raise ConfigError(f"{cannot} has no address that can be used, such as http://host:3128{hint}.") from None
    user, _, password = (unquote(text) for text in login.partition(":"))
    # SOCKS defines no encoding of user and password.
    if password:
        know(password)
    if not (user + password).isprintable() or (scheme.startswith("socks") and not (user + password).isascii()):
        raise ConfigError(f"{cannot} has a user or a password with characters that cannot be sent.")
    if scheme.startswith("socks5") and max(len(user.encode()), len(password.encode())) > 255:
        raise ConfigError(f"{cannot} has a user or a password that is too long for SOCKS5 (255 bytes).")
    return Proxy(scheme, host, port or (443 if scheme == "https" else 1080), source, user if login else None, password)


def _place(text: str) -> tuple[str, int | None]:
    """Return the host and the port of `host:port`. Raises ValueError."""
    found = re.fullmatch(r"(?:\[([^]]+)\]|([^:[\]]+))(?::(\d*))?", text)
    if found is None:
        raise ValueError
    port = int(found[3]) if found[3] else None
    host = str(IPv6Address(found[1])) if found[1] else found[2].encode("idna").decode()
    if not (found[1] or HOSTNAME.fullmatch(host)) or not (port is None or 0 < port < 65536):
        raise ValueError
    return host, port


class Exempt:
    """Hosts that are reached directly: a NO_PROXY list, its items separated by commas or blanks.

    `*` is all hosts; a name covers itself and its subdomains, with or without a leading dot (or `*.`); addresses are
    compared as numbers, also within networks (`10.0.0.0/8`, `fd00::/8`); `:port` at an item restricts it to a port.
    """

    def __init__(self, text: str) -> None:
        self._names: list[tuple[str, int | None]] = []
        self._networks: list[tuple[IPv4Network | IPv6Network, int | None]] = []
        self.unknown = False  # whether an item is neither a host nor an address nor a network
        for item in re.split(r"[\s,]+", text.strip(", \t\r\n")):
            if item:
                self._add(item)

    def _add(self, item: str) -> None:
        text, port = item, None
        if bracketed := re.fullmatch(r"\[([^]]*)\](?::(\d+))?(/\d+)?", item):
            text, port = bracketed[1] + (bracketed[3] or ""), bracketed[2]
        elif named := re.fullmatch(r"([^:]*):(\d+)", item):
            text, port = named[1], named[2]
        number = None if port is None else int(port)
        try:
            self._networks.append((ip_network(text, strict=False), number))
        except ValueError:
            name = text.removeprefix("*").strip(".").lower()
            if text == "*" or HOSTNAME.fullmatch(name):
                self._names.append(("" if text == "*" else name, number))
            else:
                self.unknown = True

    def covers(self, host: str, port: int) -> bool:
        host = host.rstrip(".").lower()
        networks: list[tuple[IPv4Network | IPv6Network, int | None]] = []
        address = _address(host)
        if address is not None:
            networks = [pair for pair in self._networks if address.version == pair[0].version]
        return any(address in network and only in (None, port) for network, only in networks) or any(
            (not name or (address is None and f".{host}".endswith(f".{name}"))) and only in (None, port)
            for name, only in self._names
        )


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def doubts(environ: Mapping[str, str]) -> list[str]:
    """Return a warning, for the person who mounts, if a NO_PROXY item is ignored."""
    used = next((name for name in ("no_proxy", "NO_PROXY") if environ.get(name, "").strip()), None)
    if used is None or not Exempt(environ[used]).unknown:
        return []
    return [f"{used} has an item that is neither a host nor an address nor a network; labfs passes over that item."]
