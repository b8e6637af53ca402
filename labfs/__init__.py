"""labfs: the files of laboratory systems as one ordinary drive, `site/project/record/attachment`.

The map: each room imports only rooms below it, and the two columns meet at the waist (tests/unit/test_layers.py holds
the law). A read goes fuse → vfs → read, and for what is missing → backends → http. A write goes fuse → vfs → write, and
with the close → backends → http.

    cli/       what is typed
    daemon/    one mount, its configuration, its state, its socket
    fuse/      a door: the kernel's
    fsspec/    a door: programs' without a mount     backends/  one folder a system: its URLs and bodies
    vfs/       what a file system means, for doors   http/      credentials, limits, retries, the way to a server
    tree/      path → node, listings, names
    write/     one file on its way to a server
    read/      one file being read, and its proof
    shared/    what machines share through a store of keys and values; others get it as small protocols of their own
    backend    the waist: types and protocols, no I/O
    errors/    every failure, its errno, its sentence without secrets
    sandbox/   stand-ins of all systems; joined to the rest by HTTP alone, they share no code with it
"""

__version__ = "0.1.0"
