"""The trusted certificates of authorities: one list for all HTTP clients.

The machine's own store, and the certificates that SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and
a site's key `ca` name. Each adds and none replaces: programs disagree on which replaces which (OpenSSL uses its
directory beside SSL_CERT_FILE, rustls uses nothing else, requests only its own bundle); a union suits them all.

Tests: unit/test_trust.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import certifi

from labfs.errors import ConfigError

# Where Debian, Fedora, openSUSE and Alpine store the bundle made by `update-ca-certificates` or its like.
MACHINE = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    # … and the same by hash, for OpenSSL
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
)
FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
DIRECTORIES = ("SSL_CERT_DIR",)  # several, separated by colons
BY_HASH = re.compile(r"[0-9a-f]{8}\.\d+")
NAMES = re.compile(r".*\.(pem|crt|cer)", re.IGNORECASE)
BLOCK = re.compile(rb"-----BEGIN (X509 )?CERTIFICATE-----.*?-----END (X509 )?CERTIFICATE-----", re.DOTALL)
LONGEST = 16 * 1024 * 1024  # bytes of a file of certificates


@dataclass(frozen=True, slots=True)
class Trust:
    """The certificates of the authorities trusted to sign a site's servers, in DER, and a TLS context of them."""

    authorities: tuple[bytes, ...]
    context: ssl.SSLContext


def trust(site: str, ca: str, environ: Mapping[str, str]) -> Trust:
    """Return the authorities trusted for a site's servers. Raises ConfigError for a `ca` without valid certificates."""
    own: tuple[bytes, ...] = ()
    if ca:
        path = Path(ca)
        if problem := _problem(path):
            raise ConfigError(f"{site}: its key ca names {path}, {problem}.")
        own = tuple(_certificates(path))
    return _trust(_machine(_chosen(environ)) + own)


@cache
def _trust(certificates: tuple[bytes, ...]) -> Trust:
    context = _context()
    return Trust(tuple(c for c in dict.fromkeys(certificates) if _taken(context, c)), context)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate certificate in the list is trusted as well
    return context


def _taken(context: ssl.SSLContext, certificate: bytes) -> bool:
    try:
        context.load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _chosen(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files and directories that environment variables name."""
    files = [environ.get(name, "") for name in FILES]
    files += [path for name in DIRECTORIES for path in environ.get(name, "").split(os.pathsep)]
    return tuple(path for path in dict.fromkeys(files) if path and path not in MACHINE)


@cache
def _machine(chosen: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return the certificates trusted for all sites: of the machine's store, and of `chosen` files and directories."""
    found: list[bytes] = []
    for path in MACHINE:
        found += _readable(Path(path))
    if not found:  # a machine without a store of its own
        found += _readable(Path(certifi.where()))
    for path in chosen:
        found += _readable(Path(path))
    return tuple(dict.fromkeys(found))


def _readable(path: Path) -> list[bytes]:
    try:
        return list(_certificates(path))
    except OSError:
        return []


def _problem(path: Path) -> str:
    """Return why a file or directory adds no certificates; "" if it does."""
    try:
        found = list(_certificates(path))
    except OSError as error:
        return f"which cannot be read ({error.strerror})"
    if not found:
        return "which holds no certificate"
    context = _context()
    return "" if all(_taken(context, certificate) for certificate in found) else "which holds a damaged certificate"


def _certificates(path: Path) -> Iterator[bytes]:
    """Yield the certificates of a file, PEM or DER, or of a directory's files. Raises OSError.

    Of a directory the files named by a hash are read, as by OpenSSL; if there are none, those with a known extension.
    """
    if path.is_dir():
        names = sorted(os.listdir(path))
        hashed = [name for name in names if BY_HASH.fullmatch(name)]
        for name in hashed or [name for name in names if NAMES.fullmatch(name)]:
            yield from _readable(path / name) if (path / name).is_file() else ()
        return
    with open(path, "rb") as file:
        text = file.read(LONGEST)
    blocks = [match[0] for match in BLOCK.finditer(text)]
    if not blocks and text.startswith(b"\x30") and b"-----BEGIN" not in text:
        yield text
    for block in blocks:
        try:
            yield ssl.PEM_cert_to_DER_cert(block.decode("ascii").replace("X509 ", ""))
        except ValueError:
            yield block  # invalid, and reported as a damaged certificate


def doubts(environ: Mapping[str, str]) -> list[str]:
    """Return warnings, for the person who mounts, about variables that name no certificates."""
    named = {name: environ[name] for name in FILES if environ.get(name) and environ[name] not in MACHINE}
    problems = {name: _problem(Path(value)) for name, value in named.items()}
    found = [
        f"{name} names {named[name]}, {text}; labfs goes on without it." for name, text in problems.items() if text
    ]
    for name in DIRECTORIES:
        paths = [path for path in environ.get(name, "").split(os.pathsep) if path and path not in MACHINE]
        wrong = [problem for path in paths if (problem := _problem(Path(path)))]
        if paths and len(wrong) == len(paths):
            found.append(f"{name} names {environ[name]}, {wrong[0]}; labfs goes on without it.")
    return found
