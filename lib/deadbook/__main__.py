"""The command line, `python -m deadbook book`, `chapter`, `sweep`, `site` ...; the Makefile calls it."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from deadbook import datasets, pool, runs, settings
from deadbook.build import book
from deadbook.sweeps import grids, queues, sweep
from deadunits import Invalid, __version__

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0: done, 1: it failed, 2: something given was wrong."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.command(chosen)
    except (Invalid, book.Failed) as error:
        print(f"deadbook: {error}", file=sys.stderr)
        return 2 if isinstance(error, Invalid) else 1
    except KeyboardInterrupt:
        print("deadbook: stopped; finished runs and chapters stay", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deadbook", description="Execute and publish the book.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=text)
        parser.set_defaults(command=run)
        return parser

    def add_parameters(parser: argparse.ArgumentParser) -> None:
        names = {"nargs": 2, "action": "append", "metavar": ("NAME", "VALUE")}
        parser.add_argument("-p", dest="parameters", default=[], **names)

    whole = command("book", _book, "execute all chapters with a profile and build the site")
    whole.add_argument("--profile", default="quick")
    whole.add_argument("--results", default="results", help="folder for new runs")
    whole.add_argument("--no-site", action="store_true", help="execute only")
    whole.add_argument("--only-site", action="store_true", help="build only, from chapters executed before")

    chapter = command("chapter", _chapter, "execute one chapter, with parameters of your own if you like")
    chapter.add_argument("chapter")
    chapter.add_argument("--profile", default="quick")
    add_parameters(chapter)
    chapter.add_argument("--no-page", action="store_true", help="execute only")

    known = command("settings", _settings, "the settings of an experiment, or the parameters of a chapter")
    known.add_argument("name", metavar="EXPERIMENT_OR_CHAPTER")

    command("site", lambda _: _print_site(book.build()), "build the site from what is committed")

    again = command("verify", _verify, "compute the first measurement of published runs again")
    again.add_argument("keys", nargs="*", metavar="RUN", help="keys of runs; none: all that measure")
    again.add_argument("--data-root", default="")

    grid = command("sweep", _sweep, "do the jobs of a YAML file: a grid of runs or chapters")
    grid.add_argument("file", type=Path)
    add_parameters(grid)
    grid.add_argument("--where", choices=("local", "slurm"), help="overrules the file")
    grid.add_argument("--processes", type=int, help="jobs at once, locally; 0: one a core")
    grid.add_argument("--results", help="folder for runs, chapters, logs")
    grid.add_argument("--data-root")
    action = grid.add_mutually_exclusive_group()
    action.add_argument("--dry-run", action="store_true", help="show the jobs and an estimate of their time")
    action.add_argument("--status", action="store_true", help="show the jobs and their progress")
    action.add_argument("--retry", action="store_true", help="do those again, too, that failed")
    action.add_argument("--cancel", action="store_true", help="remove the jobs from SLURM's queue")
    text = "one table of all runs, as .csv or .parquet"
    action.add_argument("--gather", nargs=2, metavar=("TABLE", "FILE"), help=text)
    action.add_argument("--tensorboard", metavar="FOLDER", help="write the finished runs as events")

    every = command("results", _results, "compute the runs of all chapters that are missing")
    every.add_argument("--seeds", type=int, help="of every chapter; its profile's if not given")
    every.add_argument("--profile", default=book.PUBLISHED)
    every.add_argument("--check", action="store_true", help="list what is missing")
    every.add_argument("--processes", type=int, default=0, help="runs at once; 0: one a core")
    every.add_argument("--data-root", default="")

    publish = command("publish", _publish, "put executed chapters and their runs in book/")
    publish.add_argument("--profile", default=book.PUBLISHED)
    return parser


def _book(chosen: argparse.Namespace) -> None:
    if not chosen.only_site:
        for path in book.execute_all(chosen.profile, chosen.results):
            print(f"executed: {path}", flush=True)
    if not chosen.no_site:
        _print_site(book.build(chosen.profile, chosen.results))


def _settings(chosen: argparse.Namespace) -> None:
    print(settings.described(chosen.name))


def _chapter(chosen: argparse.Namespace) -> None:
    own = _parameters(chosen)
    book.compute_runs({chosen.chapter: book.complete(chosen.chapter, chosen.profile, own)})
    executed = book.execute(chosen.chapter, chosen.profile, own)
    print(f"executed: {executed}", flush=True)
    if not chosen.no_page:
        print(f"its page: {book.build_page(executed)}")


def _verify(chosen: argparse.Namespace) -> None:
    published = {run.folder.name: run for run in runs.runs_in(runs.project_root() / runs.PUBLISHED)}
    known = {name: run for name, run in published.items() if run.has_steps}
    if unknown := [name for name in chosen.keys if name not in known]:
        raise Invalid(f"no published run that measures is called {unknown[0]}: see {runs.PUBLISHED}")
    verified = [known[name] for name in chosen.keys or known]
    for run in verified:  # all before the first one starts
        datasets.check(root=chosen.data_root, **datasets.chosen(run.info["settings"]))
    wrong = 0
    for run in verified:
        difference = runs.verify(run, chosen.data_root)
        wrong += difference > runs.VERIFY_TOLERANCE
        print(f"{run.folder.name}: {run.info['experiment']}: largest difference {difference:.1g}", flush=True)
    if wrong:
        raise SystemExit(f"{wrong} of {len(verified)} runs differ by more than {runs.VERIFY_TOLERANCE}")


def _sweep(chosen: argparse.Namespace) -> None:
    options = {name: getattr(chosen, name) for name in ("where", "processes", "results", "data_root")}
    plan = grids.read(chosen.file, _parameters(chosen), **options)
    if chosen.status or chosen.dry_run:
        print(sweep.table(plan).to_string(index=False))
    if chosen.dry_run:
        print(sweep.forecast(plan))
    elif chosen.cancel:
        print(f"cancelled {queues.cancel(plan)} jobs")
    elif chosen.gather:
        _write_table(sweep.gather(plan, chosen.gather[0]), Path(chosen.gather[1]))
    elif chosen.tensorboard:
        print(f"wrote {sweep.tensorboard(plan, Path(chosen.tensorboard))} runs to {chosen.tensorboard}")
    elif not chosen.status:
        grids.check(plan)
        print(f"configuration: {grids.keep_configuration(plan, chosen.file.stem)}", flush=True)
        ended = sweep.launch(plan, chosen.retry, lambda line: print(line, flush=True))
        print(", ".join(f"{number} {kind}" for kind, number in sorted(ended.items())))
        if ended["done"] < len(plan.jobs):
            raise book.Failed("not all jobs are done: `--status` shows each, with its log")


def _results(chosen: argparse.Namespace) -> None:
    plan = sweep.all_chapters(chosen.seeds, chosen.profile, chosen.data_root, chosen.processes)
    if chosen.check and (missing := plan.missing()):
        print(sweep.table(dataclasses.replace(plan, jobs=missing)).to_string(index=False))
    print(sweep.forecast(plan), flush=True)
    if not chosen.check and not sweep.launch_chapters(plan, lambda line: print(line, flush=True)):
        raise book.Failed("runs are missing: `results --check` lists them")


def _write_table(rows: pd.DataFrame, file: Path) -> None:
    if file.suffix == ".csv":
        rows.to_csv(file, index=False)
    elif file.suffix == ".parquet":
        runs.write(rows, file)
    else:
        raise Invalid(f"{file} must end in .csv or .parquet")
    print(f"{len(rows):,} rows: {file}")


def _parameters(chosen: argparse.Namespace) -> dict[str, object]:
    return {name: _value(text) for name, text in chosen.parameters}


def _value(text: str) -> object:
    """A number, a list or a text, as it would stand in Python; quotes around a text may be left out.

    A shell removes them, also within a list: `[conv1, fc1]` is YAML's way to write it.
    """
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    with contextlib.suppress(yaml.YAMLError):
        return yaml.safe_load(text) if text.startswith("[") else text
    return text


def _publish(chosen: argparse.Namespace) -> None:
    for path in book.publish(chosen.profile):
        print(f"published: {path}")


def _print_site(folder: object) -> None:
    print(f"the book: {folder}/index.html")


if __name__ == "__main__":
    pool.end_on_sigterm()
    warnings.formatwarning = lambda message, *_, **__: f"deadbook: {message}\n"
    sys.exit(main())
