"""labfs: the files of laboratory systems as one ordinary drive, `site/project/record/attachment`.

The map. Arrows point down only; a module imports what lies below it and nothing else (tests/test_layers.py
holds that law and checks that every module is named here).

         cli + cli_outbox · demo ─────────── config · mounts · control
         (door)          │                        │
     fuse + answers ─ daemon               backends/__init__    kind → backend, one table
  + kernel + closes      │                        │
  + inodes + holders     │                        │
  + refusals + folders   │                        │
            └────────── vfs              backends/basespace     one file a system (and its entries, its saving)
                      ┌──┴───┐                    │
                   moves   outbox             presigned         bytes behind a presigned address
                      └─ files ┘            direct · forms      … or behind the site's own; bodies of forms
                         │                        │
                       drafts                  client           credentials, limits, retries, deadlines
                       saves     signs            │
       ┌───────────┬─────┴─────┬───────┐          │
   replacing   conflicts    sources  waiting  bulk · breaker · pace · reply   with ways, verdicts: all that knows httpx
       └─────┬─────┴─ rules ───┤       │      verdicts · ways · codings · texts
           tree      scratch   │       │      route · trust
       ┌─────┴──────┐          │       │          │
  layout seen settling remarks │       │          │
    names measuring node       │       │          │
     sizes   kept    └ writer ─┤       │          │
       │ dates   listing  │  reader    │          │
       │           scan   │    │       │          │
       │                spool  └─┬──┬──┴───┐      │
       │                notes  blocks refetch copies
       │                  │      proof   digests  │
       └──────────────────┴────────┬──────────────┘
                     site ──── backend     the waist: types and protocols, no I/O
                               errors · reasons · secrecy

cli       what is typed                        config    a TOML file → sites
demo      the tour                             mounts    the mount table, and the state of one mount point
daemon    one mount being served               control   the daemon's ear
fuse      the kernel's requests ⇄ vfs          inodes    numbers ⇄ nodes
answers   in time, with an errno, and again    kernel    what it believes, and asking it to look again
outbox    sends what waits
sources   node → reader, true sizes            cli_outbox  what could not be saved
holders   who has a file open, from /proc      vfs       names: looking, making, renaming, removing
files     open files                           rules     what may be done where
saves     from the first write to the server   replacing files whose place others have taken
moves     removing and renaming                node      one place in the tree
tree      path → node, listings                names     server names ⇄ file names
seen      the order of equal names             waiting   the saves that wait, by path
scratch   which names stay on this machine     writer    one file on its way to a server
signs     what tells a draft from a product    drafts    files whose name is not the last yet
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
closes    whose, and those that failed         notes     the journal of the spool
measuring sizes: asked for, and given up       refusals  links, and what else no system has
looking   what a lost answer made (backends/)  digests   what a block is recognised by
connections  kept ones, and whether they live  limit     the largest body that a site takes
lines     API calls over connections that may be dead
patience  how long a request is tried again    paging    rows that take seconds (backends/)
folders   open ones, while names change        dates     when a version without one was first seen
codings   stored bytes, however labelled       reply     one answer of a service
secrecy   what nobody is shown                 credentials  secrets as configured, fit to be sent
basic     passwords of any script (backends/)  texts     of servers, which need be none
scan      a list, page by page                  settling  a listing → nodes
kept      the last listings, for the next mount  checks    who we are to each site
remarks   what is known of a directory in part   hiding    files whose name another is to take
refetch   a second look at what came wrong     route     directly, or through which proxy
trust     whose certificates are good          ways      connections along the route
several   requests at the same time (backends/)   flight    one does it, many wait
urgency   what a request is worth               site      a backend's name, and what may be done to it
common    settings, rows without sense (backends/)

A read: fuse → files → reader → blocks, and only for a missing block → presigned → client.
A write: fuse → files → writer → spool. A close: files → saves → writer → backend → client, and then into the tree.

`sandbox/` is a product of its own: a stand-in of the lab systems, joined to all this by HTTP alone.
"""

__version__ = "0.1.0"
