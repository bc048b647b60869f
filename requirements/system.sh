#!/usr/bin/env bash
# Finds a Python for the virtual environment and the system packages that pip cannot bring, and prints the Python's path.
#
#   bash requirements/system.sh      PYTHON=/path/to/python3 chooses the interpreter
#
# What is missing is installed where this runs as root on Debian or Ubuntu; elsewhere the line that does it is shown.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

# Python 3.13 comes last: robosuite's dependencies have no wheels for it and need a detour (robosuite_python313.txt).
CANDIDATES=(python3.12 python3.11 python3.10 python3.13 python3)

# Prints the real path of an interpreter that is usable here; fails where the name is absent, broken, or another version.
resolve() {
    "$1" -c 'import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    raise SystemExit(1)
print(sys.executable)' 2>/dev/null
}

# Debian splits these off from python3: the venv module's pip, and the headers that the interfaces are compiled with.
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }
has_headers() {
    "$1" -c 'import os, sysconfig
raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null
}

# Prints the first complete interpreter, else the first usable one, else nothing.
find_python() {
    local name path usable=""
    if [ -n "${PYTHON:-}" ]; then
        resolve "$PYTHON" || { say "PYTHON=$PYTHON: expected Python 3.10 to 3.13"; exit 1; }
        return
    fi
    for name in "${CANDIDATES[@]}"; do
        path=$(resolve "$name") || continue
        usable=${usable:-$path}
        if has_venv "$path" && has_headers "$path"; then
            printf '%s\n' "$path"
            return
        fi
    done
    printf '%s\n' "$usable"
}

has_library() { "$1" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$2" 2>/dev/null; }

# Prints the Debian packages that are missing for an interpreter, one to a line.
missing_packages() {
    local python=$1 version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    has_venv "$python" || echo "python$version-venv"
    has_headers "$python" || echo "python$version-dev"
    command -v g++ >/dev/null || echo g++
    command -v cmake >/dev/null || echo cmake
    command -v make >/dev/null || echo make
    has_library "$python" libEGL.so.1 || echo libegl1
    has_library "$python" libGL.so.1 || echo libgl1
    has_library "$python" libgthread-2.0.so.0 || echo libglib2.0-0
}

install_or_tell() {
    local packages=("$@")
    local line="apt-get update && apt-get install -y ${packages[*]}"
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "missing system packages: ${packages[*]}; installing them"
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}" >&2
    else
        say "missing system packages; as root:"
        say "    $line"
        say "then run this again. (Other systems: the packages of the same purpose.)"
        exit 1
    fi
}

python=$(find_python)
if [ -z "$python" ]; then
    install_or_tell python3 python3-venv python3-dev g++ cmake make libegl1 libgl1 libglib2.0-0
    python=$(find_python)
    [ -n "$python" ] || { say "expected Python 3.10 to 3.13, found none; set PYTHON=/path/to/python3"; exit 1; }
fi
mapfile -t missing < <(missing_packages "$python")
if [ "${#missing[@]}" -gt 0 ]; then
    install_or_tell "${missing[@]}"
    mapfile -t missing < <(missing_packages "$python")
    if [ "${#missing[@]}" -gt 0 ]; then
        say "$python still lacks what these packages bring: ${missing[*]}"
        say "It may not be the system's own Python; choose another: make venv PYTHON=/usr/bin/python3"
        exit 1
    fi
fi
printf '%s\n' "$python"
