"""labfs: the files of laboratory systems as one ordinary drive, `site/project/record/attachment`.

The map. Arrows point down only; a module imports what lies below it and nothing else (tests/test_layers.py
holds that law and checks that every module is named here).

         cli + cli_outbox · demo ─────────── config · mounts · control
         (door)          │                        │
     fuse + inodes ── daemon               backends/__init__    kind → backend, one table
     + holders           │                        │
            └────────── vfs              backends/basespace     one file a system (and its entries)
                         │                        │
        waiting ─ files ─ outbox              presigned         bytes behind a presigned address
  conflicts ──┬─────┬──┴─ sources ┐         direct · forms      … or behind the site's own; bodies of forms
            rules  tree     │     │               │
              │     │       │     │            client           credentials, limits, retries, deadlines
              └──┐ ┌─┴──┐   │     │     bulk · breaker · pace   with verdicts, all that knows httpx
            scratch layout writer reader      verdicts
                   names sizes                    │
                     │      │  └──┬──┤            │
                     │    spool blocks refetch    │
                     │    notes copies proof      │
                     │      │   digests│          │
                     └───────┴────┬────┴──────────┘
                               backend     the waist: types and protocols, no I/O
                               errors · reasons

cli       what is typed                        config    a TOML file → sites
demo      the tour                             mounts    the mount table, and the state of one mount point
daemon    one mount being served               control   the daemon's ear
fuse      the kernel's requests ⇄ vfs          inodes    numbers ⇄ nodes
outbox    sends what waits                     waiting   the saves that wait, by path
sources   node → reader, true sizes            cli_outbox  what could not be saved
holders   who has a file open, from /proc      vfs       names: looking, making, renaming, removing
files     open files, and the save at a close  rules     what may be done where
tree      path → node, listings                names     server names ⇄ file names
scratch   which names stay on this machine     writer    one file on its way to a server
reader    one file being read, read-ahead      spool     written bytes on disk
blocks    fetched bytes in memory              proof     that what was read is what the server has
backend   the contract of a system             errors    every failure, its errno
reasons   why, in a sentence, by path          client    HTTP: credentials, limits, retries, deadlines
layout    a flat list → directories            copies    whole files on disk, fetched in one pass
bulk      blocks of bytes, in threads          verdicts  what a status or a broken answer means
direct    bytes behind the site's own address  forms     a file in a multipart/form-data body
sizes     bytes that a listing does not tell   pace      no more requests than a site allows
presigned an address that expires              breaker   a silent origin is left alone
conflicts what somebody else saved meanwhile   listing   what several wait for
notes     the journal of the spool             digests   what a block is recognised by
refetch   a second look at what came wrong

A read: fuse → files → reader → blocks, and only for a missing block → presigned → client.
A write: fuse → files → writer → spool. A close: files → writer → backend → client, and then into the tree.

`sandbox/` is a product of its own: a stand-in of the lab systems, joined to all this by HTTP alone.
"""

__version__ = "0.1.0"
