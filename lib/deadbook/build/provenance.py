"""Bring the `run.json` of older runs to today's form: `python -m deadbook.build.provenance`.

Adds a checksum of each table and the commit that added the run, and removes entries that no code writes now.
How a run was once compared with an older version of the code goes to one table, `provenance.csv`.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

from deadbook.runs import PUBLISHED, project_root, sha256

COLUMNS = ("run", "compared_on", "difference", "compared_with")


def update(results: Path) -> int:
    """Rewrite each `run.json` in a folder that lacks checksums; how many there were."""
    infos = {file: json.loads(file.read_text("utf8")) for file in sorted(results.glob("*/run.json"))}
    infos = {file: info for file, info in infos.items() if "tables" not in info}
    with (results / "provenance.csv").open("a", encoding="utf8", newline="") as rows:
        write = csv.writer(rows, lineterminator="\n").writerow
        if not rows.tell():
            write(COLUMNS)
        for file, info in infos.items():
            info.pop("code", None)
            if compared := info.pop("replayed", {}):
                names = ("on", "difference", "beside")
                write([file.parent.name, *(compared.get(name, "") for name in names)])
            info["added_in"] = added_in(file)
            info["tables"] = {table.stem: sha256(table) for table in sorted(file.parent.glob("*.parquet"))}
            draft = file.with_suffix(".draft")
            draft.write_text(json.dumps(info, indent=1) + "\n", "utf8")
            draft.replace(file)
    return len(infos)


def added_in(file: Path) -> str:
    """The commit that added a file last."""
    options = ["-1", "--no-renames", "--diff-filter=A", "--format=%H", "--", file.name]
    command = ["git", "-C", file.parent, "log", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    print(f"updated {update(project_root() / PUBLISHED)} runs", file=sys.stderr)
