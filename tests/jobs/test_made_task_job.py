"""The made tasks as a store: what jobs.train reads, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.made_task import MadeTask, cli, make_store, references
from rrnn.config import Config
from rrnn.data import ClipSet, open_store, read_shard
from rrnn.made_task import CLASSES, TASKS
from rrnn.train import divide


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    return result.exit_code, result.output


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_store_holds_the_task(tmp_path: Path) -> None:
    code, said = run("pointer", "--out", tmp_path / "store", "--clips", 105, "--seed", 3)
    assert code == 0, said
    assert "105 clips, 4 shards x 3 streams" in said
    index = open_store(str(tmp_path / "store"))
    assert index.corpus == "made_task"
    clips = ClipSet([read_shard(index, shard) for shard in index.shards], list(index.streams))
    sequences, labels = TASKS["pointer"].generate(105, 3)
    assert clips.emotions == [CLASSES[y] for y in labels]
    for i, sequence in enumerate(sequences):
        for s, x_KF in sequence.items():
            np.testing.assert_array_equal(clips.values(s, i), x_KF)

    _, split = divide(clips, Config())
    assert split.how == "the corpus's own split"
    assert [len(split.side(side)) for side in ("train", "valid", "test")] == [65, 20, 20]

    best = TASKS["pointer"].bayes([sequences[i] for i in split.test], labels[split.test])
    lines = [line.split() for line in said.splitlines()]
    assert ["Bayes-optimal", f"{best['accuracy']:.1%}", f"{best['cross_entropy']:.3f}"] in lines
    assert lines[-1][0] == "naive"


def test_made_again_it_is_the_same_and_what_is_missing_is_made(tmp_path: Path) -> None:
    config = MadeTask("sparse", 64)
    make_store(config, str(tmp_path))
    before = files(tmp_path)
    (tmp_path / "features/text/00000-0001.parquet").unlink()
    make_store(config, str(tmp_path))
    assert files(tmp_path) == before


def test_a_store_of_something_else_is_left_alone(tmp_path: Path) -> None:
    make_store(MadeTask("sparse", 50), str(tmp_path / "sparse"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/store.json").write_text('{"format": 2, "corpus": "folder", "shard_size": 32}')
    before = files(tmp_path)
    for store, arguments, why in (
        ("sparse", ["pointer", "--clips", 50], "holds another made task (task was sparse, now pointer)"),
        ("sparse", ["sparse", "--clips", 60], "(clips was 50, now 60)"),
        ("sparse", ["sparse", "--clips", 50, "--seed", 1], "(seed was 0, now 1)"),
        ("folder", ["sparse", "--clips", 50], "holds a store that is no made task"),
    ):
        code, said = run(*arguments, "--out", tmp_path / store)
        assert code == 2
        assert why in said
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["sprase"], "unknown task 'sprase': expected one of average, sparse"),
        (["sparse", "--clips", 49], "49 clips don't give each fold a speaker: expected 50 or more"),
        (["sparse", "--seed", -1], "the seed is -1: expected 0 or more"),
    ],
)
def test_what_a_user_can_mend_is_one_line(tmp_path: Path, arguments: list[object], why: str) -> None:
    code, said = run(*arguments, "--out", tmp_path / "store")
    assert code == 2
    assert why in said
    assert not (tmp_path / "store").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    code, said = run("chain", "--out", tmp_path / "store", "--dry-run")
    assert code == 0
    assert '"task": "chain"' in said
    assert not list(tmp_path.iterdir())


def test_the_best_answer_is_the_best() -> None:
    found = references(MadeTask("conflict", 1000))
    best = found.pop("Bayes-optimal")
    assert found.pop("  expected")["accuracy"] == pytest.approx(best["accuracy"], abs=0.05)
    assert all(figures["cross_entropy"] > best["cross_entropy"] + 0.3 for figures in found.values())
    assert all(figures["accuracy"] < best["accuracy"] - 0.2 for figures in found.values())
