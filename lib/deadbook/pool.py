"""Calls side by side in processes of one thread each, so that numbers do not depend on the number of cores.

A worker makes one call after another, because importing torch takes as long as a short run. If it dies, only
the call that it was making fails. All end with the process that started them, however that ends.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent import futures
from multiprocessing import connection, context, parent_process
from types import ModuleType
from typing import Any

import pebble
from tqdm import tqdm

TERMINATED = "terminated by SIGTERM"
#: The environment of a process that computes a run.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_sigterm_received: list[bool] = []


class _Process(context.SpawnProcess):
    """Does not import the caller's script, which thus needs no `if __name__ == "__main__"`."""

    @staticmethod
    def _Popen(process: context.SpawnProcess) -> Any:  # noqa: N802  (multiprocessing's name)
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return context.SpawnProcess._Popen(process)
        finally:
            sys.modules["__main__"] = main


class _Context(context.SpawnContext):
    Process = _Process


class Pool(contextlib.AbstractContextManager):
    """Processes that make calls, `processes` at a time; for a `with` block, at whose end all are stopped."""

    def __init__(self, processes: int) -> None:
        self.processes, self.pending = processes, set[str]()
        self._waiting, self._running = deque[tuple[str, tuple]](), dict[futures.Future, tuple[str, tuple]]()
        self._pool: pebble.ProcessPool | None = None

    def submit(self, name: str, function: Callable, *args: Any, log: str | os.PathLike = os.devnull) -> None:
        """Call a function of a module later; what it prints is appended to the file `log`."""
        self.pending.add(name)
        self._waiting.append((name, (str(log), function, args)))

    def ended(self, seconds: float = 0.1) -> dict[str, str]:
        """The calls that end within that time, by name, and the error of each; "": none."""
        while self._waiting and len(self._running) < self.processes:
            if self._pool is None or not self._pool.active:  # its workers were killed while they were idle
                self.stop()
                self._pool = pebble.ProcessPool(self.processes, initializer=_prepare, context=_Context())
            name, call = self._waiting.popleft()
            self._running[self._pool.schedule(_call, call)] = name, call
        if not self._running:
            time.sleep(seconds)
        done, _ = futures.wait(self._running, seconds, futures.FIRST_COMPLETED)
        errors = {}
        for future in done:
            name, call = self._running.pop(future)
            if isinstance(future.exception(), futures.process.BrokenProcessPool):
                self._waiting.appendleft((name, call))  # its worker died before pebble knew which call it had
            else:
                errors[name] = _error(future)
        self.pending -= errors.keys()
        return errors

    def stop(self, *_: object) -> None:
        """End all processes, also in the middle of a call."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()

    __exit__ = stop


def _error(future: futures.Future) -> str:
    error = future.exception()
    if isinstance(error, pebble.ProcessExpired):
        code = error.exitcode
        return f"ended by signal {-code}" if code < 0 else f"ended with status {code}"
    return future.result() if error is None else last_line(error)


def last_line(error: BaseException) -> str:
    """Name and message of an error, in one line."""
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def _prepare() -> None:
    """Called first in a worker."""
    os.environ |= ONE_THREAD
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout.reconfigure(line_buffering=True)
    _print_to(os.devnull)  # between calls
    end_on_sigterm()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _call(log: str, function: Callable, args: tuple) -> str:
    """Make a call; return its error, "": none."""
    error = ""
    _print_to(log)
    try:
        function(*args)
    except (Exception, SystemExit) as raised:  # it fails this call alone
        error = str(raised) if isinstance(raised, SystemExit) else last_line(raised)
    _print_to(os.devnull)
    _sigterm_received.clear()
    gc.collect()  # images and networks of this call, before the next one loads its own
    return error


def _print_to(log: str) -> None:
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def end_on_sigterm() -> None:
    """Let SIGTERM end this process by way of its `finally` blocks, which remove drafts and release locks."""

    def end(*_: object) -> None:
        _sigterm_received.append(True)
        sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, end)


def check_sigterm() -> None:
    """End if SIGTERM came: an exception that is raised while a `__del__` runs is lost."""
    if _sigterm_received:
        raise SystemExit(TERMINATED)


class Bar(tqdm):
    """Progress in a terminal, or in a notebook, where it vanishes when all is done; nowhere else.

    Args:
        total: the number of units.
        unit: their name.
    """

    def __init__(self, total: int, unit: str) -> None:
        self.handle = _notebook() if total else None
        super().__init__(
            total=total,
            unit=unit,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
            leave=False,
            file=io.StringIO() if self.handle else sys.stderr,
            disable=not total or not (self.handle or sys.stderr.isatty()),
        )

    def show(self, ended: float, ahead: float = 0) -> None:
        """Show how many have ended, and which share of the others is done."""
        done = min(ended + ahead, self.total)
        if not self.disable:
            self.set_description_str(f"{ended:.0f} of {self.total} {self.unit} ", refresh=False)
            self.update(done - self.n)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Called by tqdm."""
        if self.handle is None:
            super().display(msg, pos)
        else:
            self.handle.update({"text/plain": str(self) if msg is None else msg}, raw=True)

    def close(self) -> None:
        """Remove it."""
        shown = self.handle is not None and not self.disable
        super().close()
        if shown:
            from IPython.display import clear_output

            clear_output()


def _notebook() -> Any:
    """The handle of an output of the notebook's cell that runs; None: there is no notebook."""
    if "IPython" in sys.modules:
        from IPython import get_ipython
        from IPython.display import display

        if hasattr(get_ipython(), "kernel"):
            return display({"text/plain": "starting"}, raw=True, display_id=True)
    return None
