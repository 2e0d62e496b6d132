"""Bring the `run.json` of older runs to today's form: `python -m deadbook.build.provenance`.

Adds a checksum of each table and the commit that added the run, and removes what nothing writes any more. How
a run was once compared with an older version of the code goes to one table, `provenance.csv`.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

from deadbook.runs import PUBLISHED, sha256, top

COLUMNS = ("run", "compared_on", "difference", "compared_with")
_OBSOLETE = ("code", "replayed")


def update(results: Path) -> int:
    """Rewrite each `run.json` in a folder that lacks checksums; how many there were."""
    commits, table = added_in(results), results / "provenance.csv"
    infos = {file: json.loads(file.read_text("utf8")) for file in sorted(results.glob("*/run.json"))}
    infos = {file: info for file, info in infos.items() if "tables" not in info}
    compared = [
        (file.parent.name, *(info["replayed"].get(name, "") for name in ("on", "difference", "beside")))
        for file, info in infos.items()
        if "replayed" in info
    ]
    if compared:
        head = [] if table.exists() else [COLUMNS]
        with table.open("a", encoding="utf8", newline="") as rows:
            csv.writer(rows, lineterminator="\n").writerows([*head, *compared])
    for file, info in infos.items():
        current = {name: value for name, value in info.items() if name not in _OBSOLETE}
        current["added_in"] = commits.get(file.parent.name, "")
        current["tables"] = {table.stem: sha256(table) for table in sorted(file.parent.glob("*.parquet"))}
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(current, indent=1) + "\n", "utf8")
        draft.replace(file)
    return len(infos)


def added_in(results: Path) -> dict[str, str]:
    """The commit that added each run last, by its key."""
    words = ["log", "--no-renames", "--diff-filter=A", "--format=%H", "--name-only", "--", "*/run.json"]
    told = subprocess.run(["git", "-C", results, *words], capture_output=True, text=True, check=True)
    commits, commit = dict[str, str](), ""
    for line in filter(None, told.stdout.splitlines()):
        if line.endswith("/run.json"):
            commits.setdefault(Path(line).parent.name, commit)
        else:
            commit = line
    return commits


if __name__ == "__main__":
    print(f"updated {update(top() / PUBLISHED)} runs", file=sys.stderr)
