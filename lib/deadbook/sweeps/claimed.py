"""One process at a time for one piece of work, among all that share a folder, on one machine or on many.

Who works holds a claim, a file that is touched every few seconds. A claim dies with its process: at once on
the same machine, elsewhere when it has not been touched for `DEAD` seconds. So nothing is ever left locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BEAT = 5.0  # seconds between two touches
DEAD = 60.0  # seconds without one, after which nobody is there any more


@contextlib.contextmanager
def claimed(place: Path) -> Iterator[bool]:
    """Claim the work of folder `place` for this block; False where somebody else, who lives, has it."""
    place.mkdir(parents=True, exist_ok=True)
    mine = place / f".claim.{os.getpid()}@{platform.node()}"
    mine.write_text(json.dumps(_owner()), "utf8")
    taken, stop = False, threading.Event()
    try:
        taken = _take(place, mine)
        if taken:
            threading.Thread(target=_beat, args=(mine, stop), daemon=True).start()
        yield taken
    finally:
        stop.set()
        if taken and _read(place / "claim") == _owner():
            (place / "claim").unlink()
        mine.unlink(missing_ok=True)


def alive(place: Path) -> bool:
    """Whether somebody who lives has claimed the work of that folder."""
    claim = place / "claim"
    owner = _read(claim)
    if owner is None:
        return False
    if owner["host"] == platform.node():
        return _born(owner["pid"]) == owner["born"]
    clock = place / f".clock.{os.getpid()}@{platform.node()}"  # the file server's, which may not be ours
    clock.touch()
    now = clock.stat().st_mtime
    clock.unlink()
    try:
        return now - claim.stat().st_mtime < DEAD
    except FileNotFoundError:
        return False


def owner(place: Path) -> str:
    """Who has claimed it, in words; "": nobody."""
    known = _read(place / "claim")
    return f"{known['host']}, process {known['pid']}" if known else ""


def _take(place: Path, mine: Path) -> bool:
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that find the same dead claim
        if alive(place):
            return False
        (place / "claim").unlink(missing_ok=True)
        try:
            os.link(mine, place / "claim")  # whole from the first moment, and touched together with `mine`
        except FileExistsError:
            return False
        return True


def _beat(mine: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(mine)


def _owner() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid(), "born": _born(os.getpid())}


def _read(claim: Path) -> dict[str, Any] | None:
    try:
        return json.loads(claim.read_text("utf8"))
    except FileNotFoundError:
        return None


def _born(pid: int) -> str:
    """When a process of this machine was started, in its clock's ticks; "": there is none."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if words[0] in "ZX" else words[19]  # a zombie works no more
