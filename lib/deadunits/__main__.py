"""The command line: `deadunits book`, `chapter`, `site`, `publish`, `replay`; the Makefile calls them."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence

import yaml

from deadunits import Invalid, __version__, book, data, runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0: done, 1: it failed, 2: something given was wrong."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.command(chosen)
    except Invalid as error:
        print(f"deadunits: {error}", file=sys.stderr)
        return 2
    except book.Failed as error:
        print(f"deadunits: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("deadunits: stopped; what was finished is kept", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deadunits", description="Execute and publish the book.")
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
    one.set_defaults(command=_chapter)

    site = commands.add_parser("site", help="build the site from what is committed, computing nothing")
    site.set_defaults(command=lambda _: _say_site(book.build()))

    again = commands.add_parser("replay", help="see whether stale published runs still give their numbers")
    again.add_argument("--data-root", default="")
    again.set_defaults(command=_replay)

    publish = commands.add_parser("publish", help="put executed chapters and their runs in book/")
    publish.add_argument("--profile", default=book.PUBLISHED)
    publish.set_defaults(command=_publish)
    return parser


def _book(chosen: argparse.Namespace) -> None:
    profile, results = chosen.profile, chosen.results
    for chapter in book.chapters():  # all are checked before the first one starts
        book.parameters(chapter, profile, {"results": results})
    if not chosen.only_site:
        for chapter in book.chapters():
            print(f"executed: {book.execute(chapter, profile, results=results)}")
    if not chosen.no_site:
        _say_site(book.build(profile, results))


def _chapter(chosen: argparse.Namespace) -> None:
    own = {name: _value(text) for name, text in chosen.own}
    print(f"executed: {book.execute(chosen.chapter, chosen.profile, own)}")


def _replay(chosen: argparse.Namespace) -> None:
    published = runs.runs_in(runs.top() / runs.PUBLISHED)
    changed = [run for run in published if run.state().startswith("stale") and run.has_steps]
    for setting in (run.info["settings"] for run in changed):  # all before the first one starts
        data.check(setting["dataset"], chosen.data_root, setting["probe_size"], setting["image_size"])
    for run in changed:
        difference = runs.record_replay(run, chosen.data_root)
        print(f"{run.folder.name}: largest difference {difference:.1g}; {run.state()}", flush=True)


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
    sys.exit(main())
