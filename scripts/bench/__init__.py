"""Speed beside other programs, on the same bytes and in the same run: ratios, since machines differ.

    make bench                                        all cases, five rounds, about two hours
    .venv/bin/python scripts/bench --case near far --rounds 3
    .venv/bin/python scripts/bench --scale 0.1        a tenth of the sizes and counts
    .venv/bin/python scripts/bench --user nobody      all of it as an ordinary user (from root)

The map:

    app        what is typed, and the run
    cases/     the table of cases; reads, lists, writes and growth are its rows
    measuring  a sample, a contest in rounds, what labfs must reach
    report     table and JSON; `plot` draws the PNG (a process in the bench's own environment)
    peers      labfs, rclone and curl, each as it is used
    ground     one case's directory: its files, nginx before them, the hub beside it, the network before both
    services/  hub: an API of BaseSpace's shape whose bytes lie on nginx; network: round-trip time, and a rate for each
               connection; uploader: the bound of uploads, parts over eight connections and nothing else
    programs   installs the peers, tells their versions and the machine
    users      the bench as an ordinary user, started by root; `private` is that user's view of the machine
    processes  what ends with its block, and what the kernel tells of a process
"""
