#!/bin/sh
# Prints the first Python on this machine that openwork runs on (3.11 to 3.13, with venv), or says what to install.
# PYTHON=... chooses one by name.
check='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if "$candidate" -c "$check" >/dev/null 2>&1; then
        command -v "$candidate"
        exit 0
    fi
done
echo "error: no Python 3.11, 3.12 or 3.13 with the venv module was found${PYTHON:+ as PYTHON=$PYTHON}." >&2
echo "Install one (on Debian and Ubuntu: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2
exit 1
