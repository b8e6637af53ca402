"""Speed beside other programs, on the same bytes and in the same run: ratios, since machines differ.

make bench                                        all cases, five rounds, about two hours
.venv/bin/python scripts/bench --case near far --rounds 3
.venv/bin/python scripts/bench --scale 0.1        a tenth of the sizes and counts
.venv/bin/python scripts/bench --user nobody      all of it as an ordinary user (from root)

app        what is typed, and the run
cases      the table of cases; reads, lists, writes and growth hold them
measuring  a sample, a case, rounds, what a case must reach
ground     one run's directory: the files, nginx before them, the hub, the network
hub        an API of BaseSpace's shape whose bytes lie on nginx (a process)
network    round-trip time and a rate for each connection (a process)
uploader   the bound of uploads: parts over eight connections and nothing else (a process)
peers      labfs, rclone and curl, each as it is used
programs   installs the peers, tells their versions and the machine
report     table and JSON; `plot` draws the PNG (a process in the bench's own environment)
"""
