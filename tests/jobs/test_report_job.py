"""jobs.report takes runs, and folders that hold some."""

from __future__ import annotations

import json
from pathlib import Path

from runs import make_run
from typer.testing import CliRunner

from jobs.report import cli


def test_folder_of_runs(tmp_path: Path) -> None:
    for name in ("x/seed-0", "x/seed-1", "y"):
        make_run(tmp_path / "runs" / name)
    (tmp_path / "runs/y/summary.json").unlink()
    runs = [str(tmp_path / "runs"), str(tmp_path / "runs/x/seed-1")]
    done = CliRunner().invoke(cli, [*runs, "--out", str(tmp_path / "out"), "--dry-run"])
    assert done.exit_code == 0
    first, _, rest = done.output.partition("\n")
    assert first == f"{tmp_path}/runs/y is unfinished: left out"
    assert json.loads(rest)["runs"] == [f"{tmp_path}/runs/x/seed-0", f"{tmp_path}/runs/x/seed-1"]
    assert not (tmp_path / "out").exists()


def test_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/a")
    (tmp_path / "runs/a/summary.json").unlink()
    for folder in ("runs", "runs/a", "nowhere"):
        done = CliRunner().invoke(cli, [str(tmp_path / folder), "--out", str(tmp_path / "out")])
        assert done.exit_code == 2
        assert f"{folder}: unfinished or not a run: summary.json is missing" in done.stderr
