"""The exceptions of labfs: each class has its errno, and tells whether a retry can help.

    LabfsError                EIO
    ├── NotFound              ENOENT
    ├── Exists                EEXIST
    │   └── NoRoom            EEXIST        the directory holds as many files as it can
    ├── NotDirectory          ENOTDIR
    ├── IsDirectory           EISDIR
    ├── NotEmpty              ENOTEMPTY
    ├── Denied                EACCES        the system refuses this account
    │   └── Unauthorized      EACCES        … since it refuses the credentials
    ├── Barred                EACCES        a proxy or a certificate refuses, until a person corrects that
    ├── NotPermitted          EPERM         not possible here for any account
    ├── ReadOnly              EROFS
    ├── Invalid               EINVAL
    ├── NotUnicode            EILSEQ        a new name that is not UTF-8
    ├── NameTooLong           ENAMETOOLONG
    ├── TooLarge              EFBIG
    ├── NoSpace               ENOSPC
    ├── CrossDevice           EXDEV         tools fall back to copy and delete
    ├── Stale                 ESTALE        the version that was opened is gone
    │   └── Conflict          ESTALE        somebody else saved meanwhile: neither side is lost
    ├── Busy                  EBUSY
    │   └── Held              EBUSY         another machine writes to it: a retry can help
    ├── Archived              EAGAIN        bytes in cold storage: retry in days
    ├── NotYet                EAGAIN        a list is still being read: retry in a while
    ├── Withdrawn             ECANCELED     a person cancelled the upload
    ├── Unsupported           EOPNOTSUPP
    ├── Unranged              EIO           the server does not send ranges: fetch the file whole
    ├── Enough                EIO           a download is stopped, since no reader waits for the rest
    ├── TimedOut              ETIMEDOUT
    ├── Unavailable           EIO           transient: a retry can help
    │   ├── Unanswered        EIO           sent, and perhaps carried out
    │   │   └── Mute          EIO           … on a kept connection that may have been dead
    │   ├── Moved             EIO           to be sent again, by https
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
from typing import Any, Self

from labfs.errors.secrecy import hidden


class LabfsError(Exception):
    """Base of all errors that leave a module of labfs; `str()` is what went wrong, and the `remedy`, as sentences."""

    errno = errno.EIO
    transient = False
    remedy = ""  # what to do next, as a sentence
    status = 0  # of the HTTP answer that it was; 0 for none

    def __init__(self, *sentence: str) -> None:
        super().__init__(*map(hidden, sentence))

    def __str__(self) -> str:
        return self.said if self.remedy in self.said else f"{ended(self.said)} {self.remedy}"

    def advised(self, remedy: str) -> Self:
        """Set the remedy, as a sentence; return the error."""
        self.remedy = remedy
        return self

    @property
    def said(self) -> str:
        """What went wrong, without the remedy: for a sentence that goes on, or for a search in it."""
        return str(self.args[0]) if self.args else ""


class NotFound(LabfsError):
    errno = errno.ENOENT


class Exists(LabfsError):
    errno = errno.EEXIST


class NoRoom(Exists):
    """A directory holds as many files as it can; unlike a name that exists, reported to the user."""


class NotDirectory(LabfsError):
    errno = errno.ENOTDIR


class IsDirectory(LabfsError):
    errno = errno.EISDIR


class NotEmpty(LabfsError):
    errno = errno.ENOTEMPTY


class Denied(LabfsError):
    errno = errno.EACCES


class Fenced(Denied):
    """The program reads all files for previews or an index, and may not have this one downloaded for that."""


class Unauthorized(Denied):
    """The request had no credentials, or the system refused them."""


class Barred(LabfsError):
    """A proxy or a certificate prevents the request: neither an outage nor the service's answer; no retry helps."""

    errno = errno.EACCES


class NotPermitted(LabfsError):
    errno = errno.EPERM


class ReadOnly(LabfsError):
    errno = errno.EROFS


class Invalid(LabfsError):
    errno = errno.EINVAL


class Empty(Invalid):
    """The system accepts no empty file."""


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
    remedy = "Open it again to get what is there now."


class Conflict(Stale):
    """Saving would destroy what somebody else saved since the file was opened."""

    remedy = "Once you have looked at both: labfs outbox retry, with its path, puts yours over theirs."


class Busy(LabfsError):
    errno = errno.EBUSY


class Held(Busy):
    """Another process, perhaps on another machine, is writing to the path."""

    transient = True


class Archived(LabfsError):
    # HSM file systems answer EAGAIN for a file on tape; no other errno means "later" as clearly.
    errno = errno.EAGAIN


class Unfinished(LabfsError):
    """The program that wrote a file did not finish it."""


class NotYet(LabfsError):
    """The name may be in the part of a list that has not been read yet."""

    errno = errno.EAGAIN


class Withdrawn(LabfsError):
    """A person cancelled the upload."""

    errno = errno.ECANCELED


class Unsupported(LabfsError):
    errno = errno.EOPNOTSUPP


class Unranged(LabfsError):
    """Internal: the core then fetches the file in one pass."""


class Enough(LabfsError):
    """Internal: ends a download that no reader waits for."""


class TimedOut(LabfsError):
    errno = errno.ETIMEDOUT


class Unavailable(LabfsError):
    """The service could not answer now.

    `retry_after_s` is the server's Retry-After, in seconds. `silent` is true if the origin did not answer
    at all, false if it answered with a refusal; `who` names the silent party, if it was not the site. `plain` is true
    where no server is at the address, by the word of this machine: a second try at once tells as much as many.
    """

    errno = errno.EIO
    transient = True
    remedy = "Try again later; labfs status tells whether the site answers."

    def __init__(
        self,
        sentence: str,
        *,
        retry_after_s: float | None = None,
        silent: bool = False,
        who: str = "",
        plain: bool = False,
    ) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s
        self.silent = silent
        self.who = who
        self.plain = plain

    @property
    def absent(self) -> bool:
        """Whether the origin was not there: nothing was carried out, and waiting may be in vain."""
        return self.silent or self.retry_after_s is None


class Unanswered(Unavailable):
    """The request was sent and no whole answer came back: it may have been carried out.

    `lost` says that the service itself did not answer, so that the request may still be under way there, and be
    carried out minutes later; else the service answered that the request failed, and does not go on with it.
    """

    def __init__(self, sentence: str, *, lost: bool = True, **more: Any) -> None:
        super().__init__(sentence, **more)
        self.lost = lost

    @property
    def absent(self) -> bool:
        return False


class Mute(Unanswered):
    """A kept connection did not answer: no evidence about the site; a new connection may work."""


class Moved(Unavailable):
    """The site redirects to another address of its own; nothing was carried out."""


class Garbled(Unavailable):
    """The bytes arrived damaged at the server: the request can be retried at once."""


class Malformed(LabfsError):
    errno = errno.EIO
    remedy = "labfs doctor --bundle FILE collects what somebody needs to find out why."


class ConfigError(LabfsError):
    errno = errno.EINVAL


class NoBytes(Malformed):
    """A file's record has no bytes: left by an interrupted save where a file is made in two steps."""


class WrongLength(LabfsError):
    """The bytes have another length than the listing says: they are another file's, or the listing is out of date."""


FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFailed(OSError):
    """An OSError of the spool's disk: full, read-only or broken. Has the errno of the original error."""

    def __str__(self) -> str:
        disk = "The disk on which labfs keeps what is written"
        if self.errno in FULL:
            return f"{disk} is full; make room on it."
        if self.errno == errno.EROFS:
            return f"{disk} can only be read."
        return f"{disk} failed: {self.strerror}."


def again(error: Exception) -> Exception:
    """Return a copy of an error for another waiting task: else one traceback would grow in many tasks."""
    if not isinstance(error, LabfsError):
        return error
    once_more = copy.copy(error)
    once_more.__cause__ = error
    return once_more


def leaf(error: BaseException) -> BaseException:
    """Return the first error inside of nested groups: of several tasks, the failure that ended the others."""
    return leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def ungrouped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one error of a group: a LabfsError or OSError if there is one, else the first."""
    return leaf(group.subgroup((LabfsError, OSError)) or group)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Re-raise an OSError of the spool's disk as DiskFailed."""
    try:
        yield
    except DiskFailed:
        raise
    except OSError as error:
        raise DiskFailed(error.errno, error.strerror) from error


def ended(sentence: str) -> str:
    """Return a sentence with a full stop, which the services' own often lack."""
    text = sentence.rstrip()
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def sentence(error: BaseException) -> str:
    """Return an error as a sentence for users, without the messages of foreign exceptions, which may quote a secret."""
    if isinstance(error, LabfsError | DiskFailed | TimeoutError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}{f': {error.filename}' if error.filename else ''}"
    return f"labfs made a mistake ({type(error).__name__}); its log says more."
