"""What the workers of the tests of `deadbook.pool` are asked to do. Needs no torch."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from deadbook import pool


def note(file):
    """Append the process, its environment and whether it imported torch to a file."""
    with open(file, "a") as lines:
        lines.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {'torch' in sys.modules}\n")


def die(how):
    """End this process, or not, in one of many ways."""
    if how == "raise":
        raise ValueError("first line\nunlucky")
    if how == "exit":
        sys.exit("no way")
    if how == "status":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "SIGTERM, lost in a __del__":
        type("", (), {"__del__": lambda self: os.kill(os.getpid(), signal.SIGTERM)})()
        pool.check_sigterm()
    if how in ("SIGKILL", "SIGTERM"):
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)


def talk():
    """Print much, to Python's and to the system's outputs, and read."""
    print("x" * 99_999)
    os.write(1, b"from below\n")
    print("an error", file=sys.stderr)
    assert not os.read(0, 1)


def draft(folder, name):
    """Hold a draft that is removed at the end, as a run does."""
    place = Path(folder, f"{name}.{os.getpid()}")
    place.touch()
    try:
        time.sleep(300)
    finally:
        place.unlink()
