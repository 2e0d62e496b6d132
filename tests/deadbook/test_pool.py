"""Calls side by side: one that kills its process fails alone, and no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import pool_calls
from deadbook import pool
from waiting import until

DEATHS = {
    "nothing": "",
    "raise": "unlucky",
    "exit": "no way",
    "status": "ended with status 3",
    "segfault": "ended by signal 11",
    "SIGKILL": "ended by signal 9",
    "SIGTERM": "terminated by SIGTERM",
    "SIGTERM, lost in a __del__": "terminated by SIGTERM",
}


def results(workers):
    errors = {}
    while workers.pending:
        errors |= workers.ended()
    return errors


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_call_that_kills_its_process_fails_alone(tmp_path):
    with pool.Pool(1) as workers:
        for how in DEATHS:
            workers.submit(how, pool_calls.die, how)
            workers.submit(f"after {how}", pool_calls.note, tmp_path / "notes")
        errors = results(workers)
    assert errors == DEATHS | {f"after {how}": "" for how in DEATHS}
    pids = [line.split()[0] for line in (tmp_path / "notes").read_text().splitlines()]
    assert len(pids) == len(DEATHS)
    assert len(set(pids)) == 4  # a process is used again as long as it lives


def test_a_worker_has_one_thread_and_does_not_import_who_asks(tmp_path):
    script = tmp_path / "script.py"  # which needs no `if __name__ == "__main__"`
    script.write_text(
        "import torch, pool_calls\nfrom deadbook import pool\nwith pool.Pool(2) as workers:\n"
        f"    workers.submit('a', pool_calls.note, {str(tmp_path / 'notes')!r})\n"
        "    while workers.pending:\n        workers.ended()\n"
    )
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, script], check=True, env=os.environ | {"PYTHONPATH": path})
    assert (tmp_path / "notes").read_text().split()[1:] == ["1", "False"]


def test_what_a_call_prints_and_reads_is_no_matter(tmp_path, capfd):
    with pool.Pool(1) as workers:
        workers.submit("silent", pool_calls.talk)
        workers.submit("logged", pool_calls.talk, log=tmp_path / "log")
        assert results(workers) == {"silent": "", "logged": ""}
    assert (tmp_path / "log").read_text() == "x" * 99_999 + "\nfrom below\nan error\n"
    assert capfd.readouterr() == ("", "")


def test_workers_that_are_killed_while_idle_are_replaced(tmp_path):
    with pool.Pool(1) as workers:
        for number in range(2):
            workers.submit(f"{number}", pool_calls.note, tmp_path / "notes")
            assert results(workers) == {f"{number}": ""}
            pid = int((tmp_path / "notes").read_text().splitlines()[-1].split()[0])
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)


def test_at_the_end_of_the_block_all_workers_are_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt), pool.Pool(2) as workers:  # noqa: PT012
        for name in "abc":
            workers.submit(name, pool_calls.draft, tmp_path, name)
        until(lambda: len(list(tmp_path.iterdir())) == 2 or workers.ended())
        pids = [int(path.suffix[1:]) for path in tmp_path.iterdir()]
        os.kill(os.getpid(), signal.SIGINT)
        workers.ended(60)
    assert list(tmp_path.iterdir()) == []
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(tmp_path, how):
    code = (
        "import sys, pool_calls\nfrom deadbook import pool\nwith pool.Pool(2) as workers:\n"
        "    for name in 'abc':\n        workers.submit(name, pool_calls.draft, sys.argv[1], name)\n"
        "    while workers.pending:\n        workers.ended()\n"
    )
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        pids = [int(path.suffix[1:]) for path in tmp_path.iterdir()]
        parent.send_signal(how)
        parent.wait(60)
    finally:
        parent.kill()  # a test that fails leaves no process behind
        parent.wait()
    until(lambda: not any(map(is_alive, pids)))
    assert list(tmp_path.iterdir()) == []


def test_in_a_notebook_progress_vanishes(monkeypatch):
    import IPython.display

    shown, cleared = [], []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    monkeypatch.setattr(pool, "_notebook", Handle)
    monkeypatch.setattr(IPython.display, "clear_output", lambda: cleared.append(True))
    with pool.Bar(4, "runs") as bar:
        bar.show(1, 0.5)
        bar.refresh()
    assert "1 of 4 runs" in shown[-2]
    assert "38%" in shown[-2]
    assert shown[-1] == ""
    assert cleared == [True]
