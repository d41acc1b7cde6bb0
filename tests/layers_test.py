#!/usr/bin/env python3
"""Holds the #include lines of mezzo/ against docs/layers.txt.

A room includes itself and rooms of a lower rank, never one of its own rank or above; every room has a
rank; no header includes torch/torch.h (17 s of compile time for whoever includes it). Prints each
breach as file:line and exits with 1 if there is one.

    layers_test.py [ROOT]       check the project at ROOT (default: the one this file is in)
    layers_test.py --self-test  check that each kind of breach is found
"""

import pathlib
import re
import sys
import tempfile

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
SOURCES = {".h", ".cpp", ".cu", ".cuh"}
HEADERS = {".h", ".cuh"}


def read_ranks(text):
    """{room: rank} from lines of `RANK ROOM ROOM ...`; # starts a comment."""
    ranks = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if not words[0].isdigit() or len(words) < 2:
            raise ValueError(f"docs/layers.txt:{number}: must be RANK ROOM ROOM ..., but is {line!r}")
        for room in words[1:]:
            if room in ranks:
                raise ValueError(f"docs/layers.txt:{number}: the room {room} has a rank already")
            ranks[room] = int(words[0])
    return ranks


def breach_of(path, room, included, ranks):
    """What is wrong with `included` in the file `path` of `room`, or None."""
    if included == "torch/torch.h" and path.suffix in HEADERS:
        return "a header must not include torch/torch.h: include the narrow headers"
    if not included.startswith("mezzo/"):
        return None
    other = included.split("/")[1]
    if other not in ranks:
        return f"includes {included}, but docs/layers.txt knows no room {other}"
    if other != room and ranks[other] >= ranks[room]:
        return (f"includes {included}: {room} (rank {ranks[room]}) may use rooms of a lower rank only, "
                f"but {other} has rank {ranks[other]}")
    return None


def breaches(root):
    ranks = read_ranks((root / "docs" / "layers.txt").read_text())
    found, files = [], 0
    for path in sorted((root / "mezzo").rglob("*")):
        if path.suffix not in SOURCES:
            continue
        files += 1
        name = path.relative_to(root)
        if str(name) == "mezzo/mezzo.h":  # the library's front door
            continue
        room = name.parts[1] if len(name.parts) > 2 else None
        if room not in ranks:
            found.append(f"{name}:1: lies in no room of docs/layers.txt")
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            breach = match and breach_of(path, room, match.group(1), ranks)
            if breach:
                found.append(f"{name}:{number}: {breach}")
    if files == 0:
        found.append(f"{root}/mezzo: has no source files: is this the right folder?")
    return found


def self_test():
    """One small tree a case: the file, its text, and the breach to be found (None: none)."""
    cases = [
        ("mezzo/amp/a.h", '#include "mezzo/base/b.h"', None),
        ("mezzo/amp/a.h", '#include "mezzo/amp/b.h"', None),
        ("mezzo/amp/a.cpp", "#include <torch/torch.h>", None),
        ("mezzo/amp/a.h", "#include <torch/torch.h>", "must not include torch/torch.h"),
        ("mezzo/amp/deep/a.h", '#  include "mezzo/optim/b.h"', "optim has rank 2"),
        ("mezzo/base/a.cpp", '\n#include "mezzo/amp/b.h"', "a.cpp:2: includes mezzo/amp/b.h"),
        ("mezzo/base/a.cpp", '#include "mezzo/attic/b.h"', "knows no room attic"),
        ("mezzo/attic/a.cpp", "", "lies in no room"),
        ("mezzo/a.cpp", "", "lies in no room"),
        ("mezzo/base/notes.txt", "", "has no source files"),
    ]
    failures = 0
    for name, text, expected in cases:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "docs").mkdir()
            (root / "docs" / "layers.txt").write_text("# rooms\n0 base\n2 amp optim  # peers\n")
            (root / name).parent.mkdir(parents=True)
            (root / name).write_text(text)
            found = breaches(root)
        is_right = not found if expected is None else len(found) == 1 and expected in found[0]
        if not is_right:
            print(f"self-test: {name} with {text!r}: expected {expected!r}, found {found}")
            failures += 1
    return failures


def main():
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(1 if self_test() else 0)
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[1]
    found = breaches(root)
    for line in found:
        print(line)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
