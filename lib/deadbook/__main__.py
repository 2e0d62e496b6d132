"""The command line, `python -m deadbook book`, `chapter`, `sweep`, `site` ...; the Makefile calls it."""

from __future__ import annotations

import argparse
import ast
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from deadbook import datasets, pool, runs, settings
from deadbook.build import book
from deadbook.sweeps import grids, slurm, sweep
from deadunits import Invalid, __version__

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0: done, 1: it failed, 2: something given was wrong."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.command(chosen)
    except Invalid as error:
        print(f"deadbook: {error}", file=sys.stderr)
        return 2
    except book.Failed as error:
        print(f"deadbook: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("deadbook: stopped; what was finished is kept", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deadbook", description="Execute and publish the book.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    whole = commands.add_parser("book", help="execute all chapters with a profile and build the site")
    whole.add_argument("--profile", default="quick")
    whole.add_argument("--results", default="results", help="folder for new runs")
    whole.add_argument("--no-site", action="store_true", help="execute only")
    whole.add_argument("--only-site", action="store_true", help="build only, from chapters executed before")
    whole.set_defaults(command=_book)

    one = commands.add_parser("chapter", help="execute one chapter, with parameters of your own if you like")
    one.add_argument("chapter")
    one.add_argument("--profile", default="quick")
    one.add_argument("-p", dest="own", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    one.add_argument("--no-page", action="store_true", help="execute only")
    one.set_defaults(command=_chapter)

    known = commands.add_parser("settings", help="what an experiment or a chapter may be given")
    known.add_argument("name", metavar="EXPERIMENT_OR_CHAPTER")
    known.set_defaults(command=lambda chosen: print(settings.described(chosen.name)))

    site = commands.add_parser("site", help="build the site from what is committed, computing nothing")
    site.set_defaults(command=lambda _: _say_site(book.build()))

    again = commands.add_parser("verify", help="compute the first measurement of published runs again")
    again.add_argument("keys", nargs="*", metavar="RUN", help="keys of runs; none: all that measure")
    again.add_argument("--data-root", default="")
    again.set_defaults(command=_verify)

    grid = commands.add_parser("sweep", help="do all that a YAML file asks for: a grid of runs or chapters")
    grid.add_argument("file", type=Path)
    grid.add_argument("-p", dest="own", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    grid.add_argument("--where", choices=("local", "slurm"), help="instead of what the file says")
    grid.add_argument("--processes", type=int, help="jobs at once, locally; 0: one a core")
    grid.add_argument("--results", help="folder for runs, chapters, logs")
    grid.add_argument("--data-root")
    what = grid.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="show the jobs and an estimate of their time")
    what.add_argument("--status", action="store_true", help="show the jobs and how far they are")
    what.add_argument("--retry", action="store_true", help="do those again, too, that failed")
    what.add_argument("--cancel", action="store_true", help="take the jobs out of SLURM's queue")
    what.add_argument(
        "--gather", nargs=2, metavar=("TABLE", "FILE"), help="one table of all runs, as .csv or .parquet"
    )
    what.add_argument("--tensorboard", metavar="FOLDER", help="write the finished runs as events")
    grid.set_defaults(command=_sweep)

    every = commands.add_parser("results", help="compute the runs of all chapters that are missing")
    every.add_argument("--seeds", type=int, help="of every chapter; as its profile says if not given")
    every.add_argument("--profile", default=book.PUBLISHED)
    every.add_argument("--check", action="store_true", help="say what is missing")
    every.add_argument("--processes", type=int, default=0, help="runs at once; 0: one a core")
    every.add_argument("--data-root", default="")
    every.set_defaults(command=_results)

    publish = commands.add_parser("publish", help="put executed chapters and their runs in book/")
    publish.add_argument("--profile", default=book.PUBLISHED)
    publish.set_defaults(command=_publish)
    return parser


def _book(chosen: argparse.Namespace) -> None:
    profile, folder = chosen.profile, chosen.results
    if not chosen.only_site:
        for path in book.execute_all(profile, folder):
            print(f"executed: {path}", flush=True)
    if not chosen.no_site:
        _say_site(book.build(profile, folder))


def _chapter(chosen: argparse.Namespace) -> None:
    own = {name: _value(text) for name, text in chosen.own}
    executed = book.execute(chosen.chapter, chosen.profile, own)
    print(f"executed: {executed}", flush=True)
    if not chosen.no_page:
        print(f"its page: {book.build_page(executed)}")


def _verify(chosen: argparse.Namespace) -> None:
    published = {run.folder.name: run for run in runs.runs_in(runs.top() / runs.PUBLISHED) if run.has_steps}
    for name in chosen.keys:
        if name not in published:
            raise runs.Invalid(f"no published run that measures is called {name}: see {runs.PUBLISHED}")
    found = [published[name] for name in chosen.keys or published]
    for setting in (run.info["settings"] for run in found):  # all before the first one starts
        datasets.check(root=chosen.data_root, **datasets.chosen(setting))
    wrong = 0
    for run in found:
        difference = runs.verify(run, chosen.data_root)
        wrong += difference > runs.VERIFY_TOLERANCE
        print(f"{run.folder.name}: {run.info['experiment']}: largest difference {difference:.1g}", flush=True)
    if wrong:
        raise SystemExit(f"{wrong} of {len(found)} runs differ by more than {runs.VERIFY_TOLERANCE}")


def _sweep(chosen: argparse.Namespace) -> None:
    own = {name: _value(text) for name, text in chosen.own}
    top = {name: getattr(chosen, name) for name in ("where", "processes", "results", "data_root")}
    plan = grids.read(chosen.file, own, **top)
    if chosen.status or chosen.dry_run:
        print(sweep.table(plan).to_string(index=False))
    if chosen.dry_run:
        print(sweep.forecast(plan))
    elif chosen.cancel:
        print(f"cancelled {slurm.cancel(plan)} jobs")
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
    from deadbook.sweeps import results

    plan = results.plan(chosen.seeds, chosen.profile, chosen.data_root, processes=chosen.processes)
    print(results.describe(plan) if chosen.check else sweep.forecast(plan), flush=True)
    if not chosen.check and not results.update(plan, lambda line: print(line, flush=True)):
        raise book.Failed("not all runs are there: `results --check` shows which")


def _write_table(rows: pd.DataFrame, file: Path) -> None:
    if file.suffix == ".csv":
        rows.to_csv(file, index=False)
    elif file.suffix == ".parquet":
        runs.write(rows, file)
    else:
        raise Invalid(f"{file} must end in .csv or .parquet")
    print(f"{len(rows):,} rows: {file}")


def _value(text: str) -> object:
    """A number, a list or a text, as it would stand in Python; quotes around a text may be left out.

    A shell takes them away, also within a list: `[conv1, fc1]` is YAML's way to write it.
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        return yaml.safe_load(text) if text.startswith("[") else text
    except yaml.YAMLError:
        return text


def _publish(chosen: argparse.Namespace) -> None:
    for path in book.publish(chosen.profile):
        print(f"published: {path}")


def _say_site(folder: object) -> None:
    print(f"the book: {folder}/index.html")


if __name__ == "__main__":
    pool.end_on_sigterm()
    warnings.formatwarning = lambda message, *_, **__: f"deadbook: {message}\n"
    sys.exit(main())
