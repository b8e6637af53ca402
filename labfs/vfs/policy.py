"""What may be done where: questions about nodes, answered without asking any server.

A refusal carries the sentence that says why.

Tests: core/test_vfs, core/test_listed_along.
"""

from __future__ import annotations

from labfs.backend import Accept, Entry, Replace, largest
from labfs.errors import NameTooLong, NoRoom, NotPermitted, ReadOnly, TooLarge
from labfs.tree import names
from labfs.tree.node import Folder, Kind, Node
from labfs.vfs.drafts.scratch import is_scratch
from labfs.write.journal import Note, State

YOURS = (
    "This is your version of a file that somebody else has saved since you opened it. To save yours over theirs: "
    "labfs outbox retry PATH, with the path of this one; to drop yours, remove it; to keep both, copy it."
)

ELSEWHERE = "The web application of the system can, if anything can."


def stays_local(parent: Folder, name: str, program: str = "") -> bool:
    """Whether a file of this name, made by this program in this directory, is never uploaded."""
    if parent.is_root or not parent.site.may_write:
        return False
    return parent.in_scratch or is_scratch(name, program, parent.children, parent.path)


def why_read_only(node: Node) -> str | None:
    """Return the reason why a file or a directory cannot be written to; None if it can."""
    if node.is_root:
        return "Only the configuration adds sites here: labfs login NAME --kind KIND --url URL."
    if not node.site.may_write:
        return f'{node.site.name} is mounted read-only (access = "read" in the configuration).'
    if node.kind is Kind.YOURS:
        return YOURS
    if node.stays_here:
        return None
    if node.kind is Kind.OLDER:
        return "This is an older version of the file, kept to be read."
    if node.entry is not None and not node.is_dir and node.entry.read_only:
        return node.entry.read_only
    entry = node.folder.entity
    if entry.read_only or not entry.takes.kinds:
        return entry.read_only or f"Nothing can be written in “{entry.name}”."
    return None


def takes_files(parent: Folder) -> bool:
    """Whether files can be made in a directory."""
    return why_read_only(parent) is None and Accept.FILE in parent.entity.takes


def check_writable(node: Node) -> None:
    """Raises ReadOnly or NotPermitted for a file that cannot be changed."""
    if node.kind is Kind.VIEW:
        raise NotPermitted(f"“{node.name}” is labfs's own view of a record and cannot be changed.")
    reason = why_read_only(node)
    if reason is not None:
        raise ReadOnly(reason)
    if node.entry is not None and not node.stays_here:
        check_replaces(node)


def check_replaces(node: Node) -> None:
    """Raises NotPermitted where nothing can be saved over what the server has."""
    site = node.site
    match _replace(node):
        case Replace.NEVER:
            raise NotPermitted(f"{site.name} cannot save over a file, and so not over “{node.name}”.")
        case Replace.BY_DELETE if not site.may_delete:
            raise NotPermitted(
                f"Saving over “{node.name}” would delete the old one, which is off for {site.name};"
                ' access = "full" in the configuration allows it.'
            )


def _replace(node: Node) -> Replace:
    return node.parent.entity.takes.replace or node.site.backend.capabilities.replace


def deletes_old(node: Node) -> bool:
    """Whether saving over a file creates a new file and deletes the old one."""
    return _replace(node) is Replace.BY_DELETE


def destroys_old(node: Node) -> bool:
    """Whether saving over a file overwrites the old bytes in place."""
    return _replace(node) is Replace.IN_PLACE


def check_size(node: Node, size: int) -> None:
    """Raises TooLarge for a `size` in bytes above the system's limit for one file."""
    if node.stays_here:
        return
    most = largest(node.site.backend, node.parent.entity.takes)
    if size > most:
        raise TooLarge(
            f"{node.site.name} takes files of {most:,} bytes at most, and so not “{node.name}”: a smaller one may do."
        )


def check_room(parent: Folder, name: str) -> None:
    """Raises NoRoom where a directory holds as many files as it can."""
    room = parent.entity.takes.room
    if room is None or parent.in_scratch:
        return
    there = [child.name for child in parent.children.values() if not (child.is_dir or child.stays_here)]
    if len(there) >= room:
        held = "one file" if room == 1 else f"{room} files"
        raise NoRoom(f"{parent.path} can hold {held}, and “{there[0]}” is there; save over it, or delete it first.")


def check_holds(parent: Folder, what: Accept, name: str) -> None:
    """Raises ReadOnly, NotPermitted or NameTooLong where a node of this kind and name cannot be made in a directory."""
    reason = why_read_only(parent)
    if reason is not None:
        raise ReadOnly(reason)
    entry = parent.entity
    most = parent.site.backend.capabilities.longest_name
    if what is Accept.FILE and len(name.encode()) > most:
        raise NameTooLong(f"{parent.site.name} takes file names of {most} bytes at most; choose a shorter one.")
    if what not in entry.takes:
        raise NotPermitted(_refused(what, entry, parent.path, name))
    _check_offered(parent, entry, what, name)


def _refused(what: Accept, entry: Entry, path: str, name: str) -> str:
    """Return why a node of this kind cannot be made in a directory, and what can."""
    if what is Accept.FILE:
        return f"{path} takes folders and no files: make one for “{name}”, or choose one that is there."
    if Accept.FILE in entry.takes:
        return f"{path} takes files and no folders, and so not “{name}”: save the files in it without one."
    return f"No folder can be made in {path}, and so not “{name}”: choose one that is there."


def _check_offered(parent: Folder, entry: Entry, what: Accept, name: str) -> None:
    """Raises NotPermitted outside the folders that an entry offers: files go one level deep, into one of these."""
    folders = parent.folders
    possible = {
        Accept.FOLDER: not folders and names.original(name) in entry.takes.folders,
        Accept.FILE: len(folders) == 1 and folders[0] in entry.takes.folders,
        Accept.DIRECTORY: True,
    }
    if entry.takes.folders and not possible[what]:
        offered = ", ".join(f"“{names.safe(folder)}”" for folder in entry.takes.folders)
        raise NotPermitted(f"Files are saved in one of the folders of {parent.home.path} and nowhere else: {offered}.")


def state(node: Node, kept: Note | None = None) -> str | None:
    """Return the state of a file: local, draft, unsaved, uploading, waiting, saved or archived.

    `status` and the extended attribute show it. `kept` is the note of a save of its path in the outbox.
    """
    if kept is not None and kept.shown is State.WAITING:
        return State.WAITING
    if node.is_dir or node.kind is Kind.VIEW:
        return None
    if node.kind is Kind.YOURS:
        return State.FAILED
    if node.stays_here:
        return State.DRAFT if node.writer is not None and node.writer.spool.note.state is State.DRAFT else State.LOCAL
    if node.writer is not None and (node.writer.dirty or node.writer.committing):
        return "uploading" if node.writer.committing else "unsaved"
    return "archived" if node.entry and node.entry.unreadable else "saved"
