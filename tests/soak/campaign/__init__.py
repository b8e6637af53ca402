"""Rounds of saving, failing, killing and recovering in two mounts, reckoned by each system's own API.

    writer     a program that saves: tells a manifest what its calls were answered
    looker     a program that looks and reads, and times each call
    ledger     what every name may hold by what was acknowledged, and what else may never be anywhere
    systems    the five systems by their own APIs: what they hold, and the requests worth a kill
    pair       two mounts of one account, their command line, and their end by `kill -9`
    scenes     what can happen in one round
    rounds     one round after the other: play, kill, recover, check
    reckoning  what the systems and both mounts hold, compared with the ledger
    __main__   an hour of it, two systems at a time: `make soak`

It knows the command line, the mounted tree, the control origin of the sandbox and the systems' APIs, and
nothing of how labfs keeps its word.
"""
