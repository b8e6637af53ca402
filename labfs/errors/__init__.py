"""Everything that can go wrong, once: each class knows its errno and whether a retry can help.

    LabfsError                EIO
    ├── NotFound              ENOENT
    ├── Exists                EEXIST
    │   └── NoRoom            EEXIST        the one place for a file is taken by another
    ├── NotDirectory          ENOTDIR
    ├── IsDirectory           EISDIR
    ├── NotEmpty              ENOTEMPTY
    ├── Denied                EACCES        the system says: not you
    │   └── Unauthorized      EACCES        … since it does not take the credentials
    ├── Barred                EACCES        a proxy or a certificate is in the way, until somebody sees to it
    ├── NotPermitted          EPERM         nobody may, here
    ├── ReadOnly              EROFS
    ├── Invalid               EINVAL
    ├── NotUnicode            EILSEQ        a new name that is no text
    ├── NameTooLong           ENAMETOOLONG
    ├── TooLarge              EFBIG
    ├── NoSpace               ENOSPC
    ├── CrossDevice           EXDEV         tools fall back to copy and delete
    ├── Stale                 ESTALE        the version that was opened is gone
    │   └── Conflict          ESTALE        somebody else saved meanwhile: neither side is lost
    ├── Busy                  EBUSY
    ├── Archived              EAGAIN        bytes in cold storage: ask again in days
    ├── NotYet                EAGAIN        a list is still being read: ask again in a while
    ├── Unsupported           EOPNOTSUPP
    ├── Unranged              EIO           ranges are not to be had: take the file whole
    ├── Enough                EIO           a download is ended, since nobody wants the rest
    ├── TimedOut              ETIMEDOUT
    ├── Unavailable           EIO           transient: a retry can help
    │   ├── Unanswered        EIO           sent, and nobody knows whether it was carried out
    │   │   └── Mute          EIO           … on a connection that may have been dead for long
    │   ├── Moved             EIO           to be asked again, by https
    │   └── Garbled           EIO           arrived damaged: to be sent again
    ├── Malformed             EIO           the service broke its own rules
    │   └── NoBytes           EIO           a file's record without its bytes
    ├── WrongLength           EIO           not the file that was listed: list again
    └── ConfigError           (none)        for the command line
    OSError
    └── DiskFailed            its own       this machine's disk, not a site

The message of each is one plain sentence that a scientist can act on. It never holds a secret.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from labfs.errors.secrecy import hidden


class LabfsError(Exception):
    """Base of all errors that leave a module of labfs; `str()` is a plain sentence."""

    errno = errno.EIO
    transient = False

    def __init__(self, *sentence: str) -> None:
        super().__init__(*map(hidden, sentence))


class NotFound(LabfsError):
    errno = errno.ENOENT


class Exists(LabfsError):
    errno = errno.EEXIST


class NoRoom(Exists):
    """Unlike a name that is taken, this needs a sentence."""


class NotDirectory(LabfsError):
    errno = errno.ENOTDIR


class IsDirectory(LabfsError):
    errno = errno.EISDIR


class NotEmpty(LabfsError):
    errno = errno.ENOTEMPTY


class Denied(LabfsError):
    errno = errno.EACCES


class Unauthorized(Denied):
    """The system does not know who asks, or not by these credentials."""


class Barred(LabfsError):
    """No outage, and no word of the service: trying again does not help."""

    errno = errno.EACCES


class NotPermitted(LabfsError):
    errno = errno.EPERM


class ReadOnly(LabfsError):
    errno = errno.EROFS


class Invalid(LabfsError):
    errno = errno.EINVAL


class Empty(Invalid):
    """A system takes no file without bytes."""


class NotUnicode(LabfsError):
    errno = errno.EILSEQ


class NameTooLong(LabfsError):
    errno = errno.ENAMETOOLONG


class TooLarge(LabfsError):
    errno = errno.EFBIG


class NoSpace(LabfsError):
    errno = errno.ENOSPC


class CrossDevice(LabfsError):
    errno = errno.EXDEV


class Stale(LabfsError):
    errno = errno.ESTALE


class Conflict(Stale):
    """Saving would destroy what somebody else saved since the file was opened."""


class Busy(LabfsError):
    errno = errno.EBUSY


class Archived(LabfsError):
    # HSM file systems answer EAGAIN for a file on tape; no other errno says "later" so plainly.
    errno = errno.EAGAIN


class Unfinished(LabfsError):
    """The program that wrote a file did not finish it."""


class NotYet(LabfsError):
    """What was asked for may be in the part of a list that has not been read yet."""

    errno = errno.EAGAIN


class Unsupported(LabfsError):
    errno = errno.EOPNOTSUPP


class Unranged(LabfsError):
    """For the core, which then takes the file in one pass; nobody else sees it."""


class Enough(LabfsError):
    """For whoever began a download; nobody else sees it."""


class TimedOut(LabfsError):
    errno = errno.ETIMEDOUT


class Unavailable(LabfsError):
    """The service could not answer now.

    `retry_after_s` is the server's own wish, in seconds. `silent` tells an origin that said nothing at
    all from one that answered with a refusal; `who` names whoever was silent, if it was not the site.
    """

    errno = errno.EIO
    transient = True

    def __init__(
        self, sentence: str, *, retry_after_s: float | None = None, silent: bool = False, who: str = ""
    ) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s
        self.silent = silent
        self.who = who

    @property
    def absent(self) -> bool:
        """Whether nobody was there: nothing was carried out, and waiting may be in vain."""
        return self.silent or self.retry_after_s is None


class Unanswered(Unavailable):
    """The request went out and no whole answer came back: it may have been carried out.

    `lost` says that no answer of the service itself came, so that the request may still be under way there, and
    be carried out minutes later; else the service says that it failed over it, and no more will come of it.
    """

    def __init__(self, sentence: str, *, lost: bool = True, **more: Any) -> None:
        super().__init__(sentence, **more)
        self.lost = lost

    @property
    def absent(self) -> bool:
        return False


class Mute(Unanswered):
    """A connection that had been kept did not answer: that tells nothing about the site, and a new one may."""


class Moved(Unavailable):
    """The site is to be asked at another address of its own; nothing was carried out."""


class Garbled(Unavailable):
    """What was sent did not arrive as it was sent: it can be sent again at once."""


class Malformed(LabfsError):
    errno = errno.EIO


class ConfigError(LabfsError):
    errno = errno.EINVAL


class NoBytes(Malformed):
    """A save that broke off half-way leaves this where a file is made in two steps."""


class WrongLength(LabfsError):
    """What came has another length than was listed: it is something else, or the listing is out of date."""


FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFailed(OSError):
    """The disk that takes what is written failed: full, read-only or broken. Keeps the errno it failed with."""

    def __str__(self) -> str:
        disk = "The disk on which labfs keeps what is written"
        if self.errno in FULL:
            return f"{disk} is full; make room on it."
        if self.errno == errno.EROFS:
            return f"{disk} can only be read."
        return f"{disk} failed: {self.strerror}."


def again(error: Exception) -> Exception:
    """Return a failure once more, for another who waited: one traceback must not grow in many tasks."""
    if not isinstance(error, LabfsError):
        return error
    once_more = copy.copy(error)
    once_more.__cause__ = error
    return once_more


def leaf(error: BaseException) -> BaseException:
    """Return what is at the bottom of a group of errors: of several tasks, the failure that ended the others."""
    return leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def ungrouped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error of a group that tells what went wrong: a known one before a mistake."""
    return leaf(group.subgroup((LabfsError, OSError)) or group)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Re-raise an OSError of the disk that takes what is written as DiskFailed."""
    try:
        yield
    except DiskFailed:
        raise
    except OSError as error:
        raise DiskFailed(error.errno, error.strerror) from error


def sentence(error: BaseException) -> str:
    """Return what went wrong, for people. What others' code says in an exception is not: it may quote a secret."""
    if isinstance(error, LabfsError | DiskFailed | TimeoutError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}{f': {error.filename}' if error.filename else ''}"
    return f"labfs made a mistake ({type(error).__name__}); its log says more."
