"""The jobs as a user runs them: raw clips to features, a model, scores and a page, on a corpus of real media files."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from scipy.io import wavfile
from typer.testing import CliRunner

from jobs._cli import storage_error_in, user_errors
from jobs.ablate import cli as ablate
from jobs.demo import write_unlabelled
from jobs.export import cli as export
from jobs.export import left_to_do
from jobs.extract import cli as extract
from jobs.made_task import cli as made_task
from jobs.matrix import cli as matrix
from jobs.report import cli as report
from jobs.score import cli as score
from jobs.train import cli as train
from pipeline.corpora import open_corpus
from pipeline.corpora.made import make_corpus
from pipeline.corpora.reading import read_corpus
from pipeline.extract import extract_shard
from pipeline.store import Store
from pipeline.streams.acoustic import Acoustic
from rrnn.config import ModelConfig
from rrnn.run import ModelCard

JOBS = {
    "extract": extract,
    "train": train,
    "score": score,
    "ablate": ablate,
    "export": export,
    "matrix": matrix,
    "report": report,
    "made_task": made_task,
}


def run(job: str, *arguments: object) -> str:
    result = CliRunner().invoke(JOBS[job], [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(job: str, *arguments: object) -> str:
    result = CliRunner().invoke(JOBS[job], [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 2, result.output
    return result.output


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), speakers=3, clips_per_speaker=4)


@pytest.mark.slow
def test_the_whole_way(manifest: Path, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    store, where, scores = tmp_path / "store", tmp_path / "run", tmp_path / "scores"
    source = manifest.parent
    (source / "broken.mp4").write_bytes(b"\x00" * 100)
    with manifest.open("a") as file:
        file.write("broken,broken.mp4,speaker00,happy,,\n")

    monkeypatch.chdir(tmp_path)  # workers run in other folders: relative paths must not be theirs
    first = run("extract", os.path.relpath(source), "--corpus", "folder", "--out", "store", "--shard-size", 5)
    assert "13 new clips, 0 known; 3 shards x 4 streams (acoustic, speech, face, words): 0 done, 12 to do" in first
    again = run("extract", source, "--out", store)
    assert "0 new clips, 13 known" in again
    assert "12 done, 0 to do" in again
    for stream in ("acoustic", "speech", "face"):
        rows = pl.read_parquet(store / "features" / stream / "*.parquet")
        assert dict(rows["status"].value_counts().iter_rows()) == {"ok": 12, "error": 1}
        assert rows.filter(pl.col("status") == "error")["clip_id"].to_list() == ["broken"]

    small = ["model.hidden=8", "model.hops=2", "train.epochs=2", "train.folds=3", "train.batch_size=4"]
    assert "held out" in run("train", "store", "--out", "run", "rrnn", *small)
    assert "is finished: nothing to train" in run("train", store, "--out", where, "rrnn", *small)
    config = json.loads((where / "config.json").read_text())
    assert config["clips"] == {"all": 13, "unlabelled": 0, "unusable": 1}
    assert [s["name"] for s in config["streams"]] == ["acoustic", "face", "speech", "words"]

    # The held-out clips from their files, without labels: the same extraction and model must give the same answers.
    unlabelled = write_unlabelled(manifest, where / "predictions.parquet", tmp_path / "new")
    with unlabelled.open("a") as file:
        file.write(f"broken,{source / 'broken.mp4'},,\n")
    run("score", "run", "new/manifest.csv", "--out", "scores", "--attention")
    assert "0 to do" in run("score", where, unlabelled, "--out", scores, "--attention")
    got = pl.read_parquet(scores / "scores/*.parquet").sort("clip_id")
    tested = pl.read_parquet(where / "predictions.parquet").filter(pl.col("split") == "test").sort("clip_id")
    bad, good = got.filter(pl.col("status") != "ok"), got.filter(pl.col("status") == "ok")
    assert bad["clip_id"].to_list() == ["broken"]
    assert bad["emotion"].to_list() == [None]
    assert "can't decode" in bad["reason"][0] or "no frame" in bad["reason"][0] or "Invalid data" in bad["reason"][0]
    assert good["clip_id"].to_list() == tested["clip_id"].to_list()
    assert good["emotion"].to_list() == tested["prediction"].to_list()
    for name in config["classes"]:
        difference = (good[f"p_{name}"].cast(pl.Float64) - tested[f"p_{name}"]).abs().max()
        assert isinstance(difference, float)
        assert difference < 1e-5
    assert set(good["model_id"]) == {json.loads((where / "summary.json").read_text())["model_id"]}
    attention = good["attention"][0].to_list()
    assert len(attention) == 4 * 2  # streams, hops
    assert all(abs(sum(a["weights"]) - 1) < 1e-4 for a in attention)

    tables = run("ablate", where, "--levels", "1", "--repeats", 1)
    assert all(modality in tables for modality in ("audio", "vision", "text", "absent"))
    assert tables.splitlines()[-4:] == run("ablate", where, "--levels", "1", "--repeats", 1).splitlines()[-4:]
    curves = pl.read_parquet(where / "ablation.parquet")
    clean = curves.filter(pl.col("level") == 0)["accuracy"]
    assert len(clean) == 3
    assert set(clean) == {(tested["prediction"] == tested["target"]).mean()}

    run("report", where, "--out", tmp_path / "report")
    page = (tmp_path / "report/report.html").read_text()
    assert "<html" in page
    assert "broken" in page
    assert "With noise, and without a modality" in page
    assert '"kind":"video/webm"' in page, "the explorer plays its clips"

    assert "another --out" in refused("score", where, unlabelled, "--out", scores)  # with attention, then without


def test_a_dry_run_shows_everything_and_does_nothing(tmp_path: Path) -> None:
    out = tmp_path / "store"
    shown = json.loads(
        run("extract", "clips", "--out", out, "--streams", "face,words", "--set", "face.height=240", "--dry-run")
    )
    assert shown["streams"] == {"face": {"height": 240}, "words": {}}
    assert shown["extractors"]["face"]["config"]["height"] == 240
    shown = json.loads(run("train", "store", "--out", tmp_path / "run", "demo", "model.hops=5", "--dry-run"))
    assert shown["model"]["hops"] == 5
    assert shown["experiment"] == "demo"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("job", JOBS)
def test_help_is_for_people(job: str) -> None:
    assert "Example" in run(job, "--help")


def test_lists() -> None:
    listed = run("extract", "--list")
    assert all(name in listed for name in ("ravdess", "acoustic", "egemaps", "non-commercial", "face", "words"))
    assert "demo" in run("train", "--list")


def test_what_a_user_can_get_wrong_is_one_line_and_exit_code_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases: list[tuple[list[object], str]] = [
        (["extract", "x", "--out", tmp_path, "--corpus", "nosuch"], "unknown corpus 'nosuch'"),
        (["extract", tmp_path / "nowhere", "--out", tmp_path / "s"], "no such folder"),
        (["extract", "x", "--out", tmp_path, "--modalities", "smell"], "unknown modality smell"),
        (["extract", "x", "--out", tmp_path, "--streams", "face", "--set", "words.asr=false"], "options for words"),
        (["extract", "x", "--out", tmp_path, "--streams", "face", "--set", "face.hight=1"], "no option hight"),
        (["extract", tmp_path, "--out", tmp_path / "s", "--gpus", "many"], "--gpus many: expected auto, or a share"),
        (["score", "x", "y", "--out", tmp_path / "s", "--gpus", "2"], "--gpus 2: expected auto, or a share"),
        (["train", tmp_path / "nowhere", "--out", tmp_path / "r"], "no store at"),
        (["train", "x", "--out", tmp_path / "r", "nosuch"], "unknown experiment 'nosuch'"),
        (["train", "x", "--out", tmp_path / "r", "model.hops=many"], "model.hops"),
        (["score", tmp_path / "nowhere", "x", "--out", tmp_path / "s"], "no trained model in"),
        (["report", tmp_path / "nowhere", "--out", tmp_path / "p"], "nowhere"),
        (["train", "x", "--out", tmp_path / "r", "model.architecture=late", "model.hops=2"], "'late' does not use hops"),
        (["ablate", tmp_path / "nowhere"], "no trained model in"),
        (["ablate", "x", "--levels", "loud"], "--levels loud: expected numbers"),
        (["export", "x", "--out", tmp_path / "model.pkl"], "expected a name that ends in .onnx or .pt2"),
        (["export", tmp_path / "nowhere", "--out", tmp_path / "model.onnx"], "no trained model in"),
    ]
    for (job, *arguments), message in cases:
        output = refused(str(job), *arguments) + "".join(capfd.readouterr())
        assert message in output, (job, arguments, output)
        assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_disk_that_is_full_is_one_line_and_exit_code_3(capfd: pytest.CaptureFixture[str]) -> None:
    @user_errors
    def write() -> None:
        with open("/dev/full", "w") as file:
            file.write("anything")

    with pytest.raises(typer.Exit) as ended:
        write()
    assert ended.value.exit_code == 3
    assert capfd.readouterr().err.strip() == "error: the disk: No space left on device"
    of_a_worker = RuntimeError("Training failed:\n  File ...\nOSError: [Errno 28] No space left on device\n")
    assert storage_error_in(of_a_worker) == "the disk: No space left on device"
    assert storage_error_in(RuntimeError("OSError: [Errno 5] Input/output error")) is None


def test_who_stops_a_job_is_told_that_it_goes_on(ray_cluster: None, capfd: pytest.CaptureFixture[str]) -> None:
    """By Ctrl-C, and by SIGTERM, which Ray would have to itself."""
    for number in (signal.SIGINT, signal.SIGTERM):

        @user_errors
        def work(number: int = number) -> None:
            os.kill(os.getpid(), number)
            time.sleep(60)

        with pytest.raises(typer.Exit) as ended:
            work()
        assert ended.value.exit_code == 130
        assert capfd.readouterr().out == "stopped: the same command goes on from here\n"


def test_a_refused_source_leaves_no_store(tmp_path: Path) -> None:
    rows = ["clip_id,path,emotion", *(f"{i},{i}.wav,sad" for i in range(99)), "0,0.wav,sad"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    assert "'0' comes twice" in refused("extract", tmp_path / "manifest.csv", "--out", tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_what_a_source_no_longer_has_wrong_is_no_longer_in_the_store(tmp_path: Path) -> None:
    source, out = tmp_path / "clips", tmp_path / "store"
    source.mkdir()
    wavfile.write(source / "a.wav", 16000, np.zeros(16000, np.int16))
    (source / "a.srt").write_text("no transcript")
    store = Store.create(str(out), "folder")
    store.add_clips(read_corpus(open_corpus("folder"), str(source))[0])
    store.begin_stream(Acoustic())
    extract_shard(store, Acoustic(), store.shards()[0])  # so that there is nothing to do for Ray

    extract_again = ("extract", source, "--out", out, "--streams", "acoustic")
    assert "broken" in run(*extract_again)
    assert next(p["kind"] for p in json.loads((out / "problems.json").read_text())) == "broken"
    (source / "a.srt").unlink()
    assert "broken" not in run(*extract_again)
    assert json.loads((out / "problems.json").read_text()) == []


def test_export_names_what_must_be_done_to_its_inputs() -> None:
    streams = {"acoustic": {"columns": ["f0"], "modality": "audio"}, "face": {"columns": ["x"], "modality": "vision"}}
    card = ModelCard(ModelConfig(), ("calm", "glad"), "softmax", streams)
    assert left_to_do(card) == []
    by_speaker, pooled = left_to_do(replace(card, normalise="speaker", pool={"acoustic": 4, "face": 1}))
    assert "train.normalise=speaker" in by_speaker
    assert "the speaker's mean and deviation" in by_speaker
    assert "each 4 frames of acoustic" in pooled
    assert "face" not in pooled
