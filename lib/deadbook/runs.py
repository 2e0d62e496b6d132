"""Runs: an experiment with one setting and one seed, computed once, kept as a folder of tables.

`results/<key>/` holds a parquet file a table and `run.json` (settings, commit, versions, machine, time, a
checksum of each table). It is written under another name and renamed when it is complete. A run whose files
were damaged afterwards is named with its path and counts as not done. A run that is kept in the book
(`book/results/`) is never computed again, only read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadbook import datasets, pool, rehearsal, settings
from deadunits import Invalid

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = Path("book/results")
# Between a committed first measurement and today's, as a share of a column's largest number. Another
# processor alone made 0.02 of it after 375 steps of an attack's run (gradients of nearly dead units).
VERIFY_TOLERANCE = 0.05
_PACKAGES = ("deadunits", "torch", "torchvision", "numpy")
_TIMES = {"started", "seconds", "processor_seconds"}
_FACTS = {"experiment", "settings", "versions", "machine", "device"} | _TIMES


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path

    @property
    def info(self) -> dict[str, Any]:
        """Experiment, settings, versions, machine, time: what `run.json` says."""
        file = self.folder / "run.json"
        return dict(_read_info(file, file.stat().st_mtime_ns))

    @property
    def damage(self) -> str:
        """Which of its files is missing, truncated or changed; "": none. Each is read once per process."""
        try:
            stats = {file.name: file.stat() for file in sorted(self.folder.iterdir())}
        except OSError as error:
            return f"{self.folder}: {error.strerror}"
        return _damage(self.folder, tuple((name, it.st_size, it.st_mtime_ns) for name, it in stats.items()))

    def table(self, name: str) -> pd.DataFrame:
        """One of its tables, with the activation, the seed and how it was pruned as columns.

        Raises:
            Invalid: its files are damaged.
        """
        if damage := self.damage:
            raise Invalid(f"{damage}. Delete {self.folder}, and it is computed again")
        file, chosen = self.folder / f"{name}.parquet", self.info["settings"]
        known = _read_table(file, file.stat().st_mtime_ns, chosen["activation"], chosen["seed"], self.by)
        return known.copy(deep=False)  # pandas copies what a caller changes

    def has(self, name: str) -> bool:
        """Whether it has a table of that name."""
        return (self.folder / f"{name}.parquet").is_file()

    @property
    def has_steps(self) -> bool:
        """Whether it measures while it trains, so that a first measurement can be computed again soon."""
        return "measure_every" in self.info["settings"]

    @property
    def by(self) -> str:
        """How it was pruned: by "layer" or "network"; "": not at all."""
        chosen = self.info["settings"]
        return chosen["by"] if chosen.get("schedule") else ""


@lru_cache(maxsize=4096)  # a page asks for the same ones thousands of times
def _read_info(file: Path, changed_ns: int) -> dict[str, Any]:
    return json.loads(file.read_text("utf8"))


@lru_cache(maxsize=1024)  # all of the book's are 260 MB
def _read_table(file: Path, changed_ns: int, activation: str, seed: int, by: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(file).assign(activation=activation, seed=seed, pruned_by=by)


@cache
def _damage(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """`Run.damage` of files with these names, sizes and times."""
    try:
        info = json.loads((folder / "run.json").read_text("utf8"))
    except FileNotFoundError:
        return f"{folder / 'run.json'} is missing"
    except ValueError:
        info = None
    if type(info) is not dict or not info.keys() >= _FACTS or type(info["settings"]) is not dict:
        return f"{folder / 'run.json'} is truncated or was changed"
    for name, checksum in info.get("tables", {}).items():
        file = folder / f"{name}.parquet"
        if not file.is_file():
            return f"{file} is missing"
        if sha256(file) != checksum:
            return f"{file} is truncated or was changed: its checksum differs from that in run.json"
    return ""


def sha256(file: Path) -> str:
    """The checksum of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def table(runs: Iterable[Run], name: str) -> pd.DataFrame:
    """The same table of several runs, one below the other."""
    import pandas as pd

    return pd.concat([run.table(name) for run in runs], ignore_index=True)


def grid(fixed: Mapping[str, Any], **lists: Iterable[Any]) -> list[dict[str, Any]]:
    """All combinations: `grid({"lr": 0.1}, seed=range(2))` gives two settings."""
    combinations = itertools.product(*lists.values())
    return [dict(fixed) | dict(zip(lists, values, strict=True)) for values in combinations]


def ensure(
    experiment: str,
    wanted: Sequence[Mapping[str, Any]],
    results: str | os.PathLike = "results",
    data_root: str = "",
    processes: int = 0,
) -> list[Run]:
    """The runs with these settings, in their order; those that are missing are computed.

    Runs are computed side by side in processes of one thread each, so that their numbers do not depend on
    how many cores there are. Interrupted, the finished ones are kept.

    Args:
        experiment: name of a loop, and of its module in `deadbook.experiments`.
        results: the folder for new runs; a relative path starts at the book's top folder, or here.
        data_root: folder of the data sets (`datasets.data_root`).
        processes: how many at once; 0: one a core.

    Raises:
        Invalid: a wrong setting, missing data or an unwritable folder, before anything is computed.
        RuntimeError: a run failed; its error is named, the other runs go on first.
    """
    for run in wanted:
        settings.check(settings.experiment(experiment), run)
    settings.check(settings.Command, {"processes": processes})
    folder, at_once = project_root() / results, processes or os.cpu_count() or 1
    own_state = cache(settings.own_state)  # of many pictures it takes a while
    keys = [key(experiment, run, own_state(run["network"], run["dataset"])) for run in wanted]
    known = [stored(name, folder) for name in keys]
    missing = {name: dict(run) for name, run, done in zip(keys, wanted, known, strict=True) if done is None}
    if missing:
        check_ready(experiment, list(missing.values()), folder, data_root, at_once)
        _compute(experiment, missing, folder, data_root, at_once)
    return [run or Run(folder / name) for name, run in zip(keys, known, strict=True)]


def check_ready(
    experiment: str, wanted: Sequence[Mapping[str, Any]], folder: Path, data_root: str, at_once: int
) -> None:
    """Check all that runs need, and decode images that are files.

    Runs on a network or images of the reader's own are rehearsed, and the estimate of their time, memory and
    disk is printed.

    Raises:
        Invalid: missing data, an unwritable folder, a network that does not fit the settings.
    """
    for run in wanted:
        datasets.check(root=data_root, **datasets.chosen(run))
    check_writable(folder)
    for run in {(run["dataset"], run["image_size"]): run for run in wanted}.values():
        rehearsal.check_images_fit(run, min(at_once, len(wanted)))
        decode(run, data_root)
    if unknown := [run for run in wanted if rehearsal.needed(run)]:
        rehearse(experiment, unknown, folder, data_root, at_once)


def rehearse(
    experiment: str, wanted: Sequence[Mapping[str, Any]], folder: Path, data_root: str, at_once: int
) -> None:
    """Rehearse runs, in a process of its own so that torch is not imported here; print what they need."""
    log, errors = folder / f".rehearsal.{here()}", dict[str, str]()
    try:
        with pool.Pool(1) as worker:
            worker.submit("", rehearsal.rehearse, experiment, list(wanted), data_root, at_once, log=log)
            while worker.pending:
                errors |= worker.ended()
        if errors[""].startswith("ended by"):
            return  # as a run may end: that one fails alone
        if errors[""]:
            raise Invalid(errors[""].removeprefix("deadunits.Invalid: "))
        print(log.read_text("utf8", errors="replace").splitlines()[-1])
    finally:
        log.unlink(missing_ok=True)


def decode(run: Mapping[str, Any], data_root: str = "") -> None:
    """Decode or unpack the images of a run, before the processes of the runs ask for them."""
    if datasets.decodes(run["dataset"], data_root):
        datasets.load(root=data_root, **datasets.chosen(run))


def stored(name: str, folder: Path) -> Run | None:
    """The run of that key: the published one, or one in `folder`; warns of damaged ones."""
    places = (project_root() / PUBLISHED / name, folder / name)
    return next(_whole(place for place in places if place.is_dir()), None)


def runs_in(folder: Path) -> list[Run]:
    """All finished runs in a folder; warns of damaged ones."""
    places = sorted(folder.glob("[0-9a-f]*/"))
    return list(_whole(place for place in places if len(place.name) == 12))


def _whole(places: Iterable[Path]) -> Iterator[Run]:
    """The runs in these folders that are not damaged."""
    for place in places:
        if damage := Run(place).damage:
            warnings.warn(f"{damage}. The run counts as not done", stacklevel=3)
        else:
            yield Run(place)


def has_matching_run(parameters: Mapping[str, Any], folder: Path) -> bool:
    """Whether any run, here or published, agrees with these parameters as far as it has them."""
    for run in itertools.chain.from_iterable(map(runs_in, (project_root() / PUBLISHED, folder))):
        if all(parameters.get(name, value) == value for name, value in run.info["settings"].items()):
            return True
    return False


def load_experiment(experiment: str) -> Callable[..., Iterator[tuple[str, dict[str, Any]]]]:
    """The loop of that name, with its settings as keyword arguments; it yields rows of tables."""
    function = getattr(importlib.import_module(f"deadbook.experiments.{experiment}"), experiment)
    kind = settings.experiment(experiment)
    return lambda data_root="", **values: function(settings.check(kind, values), data_root)


def key(experiment: str, run: Mapping[str, Any], state: Mapping[str, str] | None = None) -> str:
    """Name of a run: a hash of its experiment and settings, and of a network or pictures of the reader's own.

    Args:
        state: `settings.own_state` of the settings, if it is known.
    """
    if state is None:
        state = settings.own_state(run.get("network", "small_cnn"), run.get("dataset", "digits"))
    parts = [experiment, settings.keyed(experiment, run), *([dict(state)] if state else [])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def check_writable(folder: Path) -> None:
    """Make the folder if need be; raise `Invalid` if nothing can be written there."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Invalid(f"cannot write to {folder}: {error.strerror}. Name another folder") from error


def execute(experiment: str, run: dict[str, Any], folder: Path, data_root: str = "", name: str = "") -> Run:
    """Compute one run here and now, with one thread, and put it in place once it is complete.

    Args:
        name: its key when it was asked for.

    Raises:
        Invalid: the key is another one now: the reader's network or pictures changed meanwhile.
    """
    import pandas as pd
    import torch

    torch.set_num_threads(1)
    started, wall, cpu = datetime.now(UTC), time.monotonic(), time.process_time()
    state = settings.own_state(run["network"], run["dataset"])
    place = folder / key(experiment, run, state)
    if name not in ("", place.name):
        raise Invalid(f"{run['network']} or {run['dataset']} changed while the run waited: start it again")
    draft = folder / f".{place.name}.{here()}"
    draft.mkdir(parents=True)
    try:
        tables: dict[str, dict[str, list]] = {}
        for name, row in load_experiment(experiment)(**run, data_root=data_root):
            _append(tables.setdefault(name, {}), row)
            if "epoch" in row:
                (draft / "progress").write_text(str(row["epoch"] / run["epochs"]))
            pool.check_sigterm()
        (draft / "progress").unlink(missing_ok=True)
        for name, columns in tables.items():
            write(_narrow(pd.DataFrame(columns)), draft / f"{name}.parquet")
        info = {
            "experiment": experiment,
            "settings": run,
            **({"own": state} if state else {}),
            "commit": _commit(),
            "versions": {"python": platform.python_version()} | _versions(),
            "machine": _machine(),
            "device": "cpu",
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - wall, 1),
            "processor_seconds": round(time.process_time() - cpu, 1),
            "tables": {name: sha256(draft / f"{name}.parquet") for name in tables},
        }
        (draft / "run.json").write_text(json.dumps(info, indent=1) + "\n", "utf8")
        if place.exists():  # damaged, or finished by another process meanwhile
            old = folder / f".{place.name}-old.{here()}"
            place.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Run(place)


def _append(columns: dict[str, list], row: Mapping[str, Any]) -> None:
    """Add a row, or as many as its arrays are long, to the columns of a table.

    Plain lists: small arrays or frames that stay alive between the large tensors of a measurement make the
    allocator keep 300 MB more of the heap at each.
    """
    arrays = [len(value) for value in row.values() if hasattr(value, "tolist")]
    length = arrays[0] if arrays else 1
    for name, value in row.items():
        many = value.tolist() if hasattr(value, "tolist") else [value] * length
        columns.setdefault(name, []).extend(many)


def _narrow(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns in half the memory, where that loses nothing: scores are float32, counts are small."""
    import numpy as np

    for name, column in frame.items():
        half = {"f": np.float32, "i": np.int32}.get(column.dtype.kind)
        if half is not None and column.astype(half).eq(column).all():
            frame[name] = column.astype(half)
    return frame


def write(frame: pd.DataFrame, file: Path) -> None:
    """As parquet: the bytes of floats by their place, which is a third smaller than number by number."""
    floats = [name for name, column in frame.items() if column.dtype.kind == "f"]
    frame.to_parquet(
        file,
        index=False,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in frame if name not in floats],
        use_byte_stream_split=floats,
    )


def progress(folder: Path, name: str = "*") -> list[float]:
    """How far each run that is being computed in `folder` is, from 0 to 1; or the one whose key is `name`."""
    shares = []
    for file in folder.glob(f".{name}.*/progress"):
        with contextlib.suppress(OSError, ValueError):  # renamed or half-written at this moment
            shares.append(float(file.read_text()))
    return shares


def verify(run: Run, data_root: str | os.PathLike = "") -> float:
    """`difference` of a run's first measurement from the same computed by today's code; infinite: none."""
    import pandas as pd
    import torch

    info, tables, first = run.info, {}, None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the run had
    try:
        for name, row in load_experiment(info["experiment"])(**info["settings"], data_root=data_root):
            if "step" in row:
                first = first or row["step"]
                if row["step"] != first:
                    break
                _append(tables.setdefault(name, {}), row)
    finally:
        torch.set_num_threads(threads)
    differences = []
    for name, rows in tables.items():
        committed = run.table(name)
        differences.append(difference(committed[committed["step"] == first], pd.DataFrame(rows)))
    return max(differences, default=math.inf)


def difference(old: pd.DataFrame, new: pd.DataFrame) -> float:
    """The largest difference of two tables' numbers, as a share of the largest old one of its column.

    Infinite: another number of rows, or nan elsewhere.
    """
    import numpy as np

    largest = 0.0
    for name in (name for name in new if new[name].dtype.kind in "biuf"):
        before, now = (frame[name].to_numpy(dtype=float) for frame in (old, new))
        if before.shape != now.shape or (np.isnan(before) != np.isnan(now)).any():
            return math.inf
        before, now = np.nan_to_num(before), np.nan_to_num(now)
        scale = np.abs(before).max(initial=0) or 1.0
        largest = max(largest, float(np.abs(before - now).max(initial=0) / scale))
    return largest


def _compute(
    experiment: str,
    missing: Mapping[str, Mapping[str, Any]],
    folder: Path,
    data_root: str,
    at_once: int,
) -> None:
    """Compute the missing runs, by their keys, side by side."""
    clean(folder)
    errors: dict[str, str] = {}
    try:
        with pool.Pool(at_once) as workers, pool.Bar(len(missing), "runs") as bar:
            for name, chosen in missing.items():
                workers.submit(name, execute, experiment, dict(chosen), folder, data_root, name)
            while workers.pending:
                ended = workers.ended()
                errors |= ended
                if ended:
                    clean(folder)  # a dead worker's draft would count as progress
                bar.show(len(errors), sum(progress(folder)))
    finally:
        clean(folder)
    failed = [error for error in errors.values() if error]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(missing)} runs failed; the first: {failed[0]}")


def here() -> str:
    """This process among those of all machines that share a folder."""
    return f"{os.getpid()}@{platform.node()}"


def clean(folder: Path) -> None:
    """Remove what killed processes of this machine have left."""
    for draft in folder.glob(".*.*"):
        pid, _, host = draft.name.split(".", 2)[2].partition("@")
        if pid.isdigit() and host in ("", platform.node()) and not _lives(int(pid)):
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def project_root() -> Path:
    """The book's top folder above the current one, so that a notebook may be run from anywhere."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "_toc.yml").is_file()), here)


def _commit() -> str:
    """The commit of the code that runs, "+" behind it if it was changed since; "" where there is no git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return ""


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _machine() -> str:
    """Name of the processor, and how many cores."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{model}, {os.cpu_count()} cores"
