"""Which names stay on this machine: the temporary, lock and desktop files of the programs people use.

A scratch file exists in the spool only and is never uploaded. Renaming it to an ordinary name is a save:
its bytes are then uploaded under that name, once. The rules are narrow on purpose, since a file that
wrongly counts as scratch would never reach the lab system: a rule that could match a scientist's own
file also requires the program that made it, or the file that it stands beside.

Tests: unit/test_units.
"""

from __future__ import annotations

import re
from collections.abc import Container

# Names that no scientist gives to data.
_ALWAYS = re.compile(
    r"""
      \.~lock\..+\#            # LibreOffice locks
    | ~\$.+                    # Microsoft Office locks
    | (\..+)?\.sw[a-px]x?      # vim swap files; it tries .swx for long names
    | 4913                     # vim tries whether it may create files
    | \.\#.+ | \#.+\#          # Emacs locks and auto-saves
    | .+~                      # backups of vim, Emacs, gedit
    | \.goutputstream-.{6}     # GNOME saves
    | \.DS_Store | \._.+       # macOS
    | Thumbs\.db | desktop\.ini
    | \.Trash(-\d+)? | \.directory | \.hidden
    | \.ipynb_checkpoints      # Jupyter's folder of older saves; it makes one at the first save of a notebook
    | \.xdg-volume-info | autorun\.inf
    | \.fuse_hidden.+ | \.nfs[0-9a-f]{12,}
    """,
    re.VERBOSE,
)

# Temporary names that only count when the program they belong to made them.
_OF_PROGRAM = (
    ("rsync", re.compile(r"\..+\.[A-Za-z0-9]{6}")),
    ("sed", re.compile(r"sed[A-Za-z0-9]{6}")),
    ("soffice.bin", re.compile(r"lu[0-9a-z]{6,}\.tmp")),  # LibreOffice writes beside the document
)

# Files that git is still writing, by their path in `.git`: a `poetry.lock` outside is a file of the project, and
# `logs/refs/heads/testing` the history of a branch.
_OF_GIT = re.compile(
    r"""
    .*/\.git/ ( (.+/)? [^/]+\.lock | (.+/)? packed-refs\.new | (.+/)? objects/ (.+/)? tmp_[^/]+ | t[A-Za-z0-9]{6} )
    """,
    re.VERBOSE,
)

# SQLite's side files only count beside their database.
_BESIDE = re.compile(r"(.+)-(journal|wal|shm)")


def is_scratch(name: str, program: str, beside: Container[str], directory: str = "") -> bool:
    """Whether a new file stays local.

    `program` is the name of the process that makes the file, "" if unknown; `beside` holds the names that are
    already in the directory, `directory` is the directory's path.
    """
    if _ALWAYS.fullmatch(name):
        return True
    if any(program == owner and pattern.fullmatch(name) for owner, pattern in _OF_PROGRAM):
        return True
    if program == "git" and _OF_GIT.fullmatch(f"{directory}/{name}"):
        return True
    match = _BESIDE.fullmatch(name)
    return match is not None and match[1] in beside
