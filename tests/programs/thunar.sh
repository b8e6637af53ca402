#!/usr/bin/env bash
# Copy a file into a directory, rename one there and throw one away, with the keys of a real file manager:
#   thunar.sh LOCAL-DIRECTORY DIRECTORY      run under dbus-run-session, with DISPLAY set
# Copies what is alone in LOCAL-DIRECTORY; renames first.txt to second.txt; throws kept.txt away.
set -u
local=$1 there=$2
export GTK_A11Y=none NO_AT_BRIDGE=1
started=()
trap 'kill "${started[@]}" 2>/dev/null' EXIT

show() {
    thunar "$1" >/dev/null 2>&1 &
    started+=($!)
    window=$(timeout 20 xdotool search --sync --onlyvisible --name "$(basename "$1")" | tail -n 1)
    timeout 3 xdotool windowfocus "$window"
    sleep 2
}
keys() { xdotool key --clearmodifiers "$@"; sleep 0.5; }
words() { xdotool type --delay 30 "$1"; sleep 0.5; }

show "$local"
keys ctrl+a ctrl+c
show "$there"
keys ctrl+v
sleep 4
keys Escape
words first          # typing selects
sleep 1
keys Escape F2
keys ctrl+a
words second.txt
keys Return
sleep 3
keys Return Escape
words kept
sleep 1
keys Escape Delete
sleep 3
keys Escape
