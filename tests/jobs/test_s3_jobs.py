"""The jobs with everything in a bucket, on a network that fails on purpose: they end with what an undisturbed run on this
machine ends with. Against moto, or the server of RRNN_TEST_S3_ENDPOINT (tests/s3_server.py)."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from faulty_proxy import FAULTS, FaultyProxy
from processes import Job, free_port
from s3_server import REAL, environment, new_bucket, s3_server, speak_to
from sources import tones
from stores import read_clips
from typer.testing import CliRunner

from jobs.ablate import ablate_run
from jobs.extract import ExtractConfig
from jobs.extract import cli as extract
from jobs.report import cli as report
from jobs.score import ScoreConfig, ScoreWorker, extractors_of
from jobs.score import cli as score
from jobs.train import cli as train_cli
from jobs.tune import cli as tune
from pipeline import files
from pipeline.corpora import open_corpus
from pipeline.corpora.reading import read_corpus
from pipeline.extract import extract_shard
from pipeline.files import Folder
from pipeline.store import Store
from rrnn.ablation import read_ablation
from rrnn.config import config_from_dict, merge
from rrnn.data import open_store
from rrnn.experiments import experiment
from rrnn.run import RunFolder, load_model
from rrnn.sweep import Sweep
from rrnn.train import Workers, train

JOBS = {"extract": extract, "train": train_cli, "score": score, "tune": tune, "report": report}
CLIPS, SHARD_SIZE = 24, 8
SECRET = f"secret-{uuid.uuid4().hex}"


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(server, seed=0, share=0.0) as proxy:
        speak_to(monkeypatch, environment(server, SECRET))  # this process; the jobs are behind the proxy
        yield proxy


@pytest.fixture
def ray_files() -> Iterator[Path]:
    """Where a job's Ray keeps its logs; a short name, since sockets are there too."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def make_clips(folder: Path, n: int = CLIPS) -> Path:
    """Tones of which the lower half is sad, of eight speakers, with a manifest."""
    tones(folder, n)
    rows = [f"{i:02},{i:02}.wav,s{i % 8},{'sad' if i < n // 2 else 'happy'}\n" for i in range(n)]
    (folder / "manifest.csv").write_text("clip_id,path,speaker,emotion\n" + "".join(rows))
    return folder


def put(folder: Path, url: str) -> str:
    for path in folder.iterdir():
        Folder(url).write(path.name, path.read_bytes())
    return url


def extracted_here(source: Path, out: Path) -> Store:
    store = Store.create(str(out), "folder", SHARD_SIZE)
    store.add_clips(read_corpus(open_corpus("folder"), str(source))[0])
    (acoustic,) = ExtractConfig("", "folder", "", streams={"acoustic": {}}).extractors()
    store.begin_stream(acoustic)
    for shard in store.shards():
        extract_shard(store, acoustic, shard)
    return store


def trained_here(config: dict[str, Any], store: str, out: Path, scratch: Path, test: bool = True) -> RunFolder:
    torch.set_num_threads(1)
    index = open_store(store)
    options: dict[str, Any] = {"workers": Workers(), "report": lambda *_: None, "scratch": scratch, "test": test}
    train(config_from_dict(config), index, read_clips(index), str(out), **options)
    return RunFolder(str(out))


def scored_here(run: RunFolder, source: Path, out: Path) -> Folder:
    store = Store.create(str(out), "folder", SHARD_SIZE)
    store.add_clips(read_corpus(open_corpus("folder"), str(source))[0])
    config = ScoreConfig(run.url, str(source), "folder", str(out))
    worker = ScoreWorker(config, extractors_of(load_model(run.url)[1]))
    for shard in store.shards():
        worker({"shard": shard})
    return store.folder.at("scores")


def contents(folder: Folder) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.names()}


def rows_of(data: bytes) -> list[dict[str, Any]]:
    """Of a table, without the addresses, which differ."""
    return [{k: v for k, v in row.items() if k != "uri"} for row in pq.read_table(pa.BufferReader(data)).to_pylist()]


def secrets_in(folder: Path, secret: str) -> list[Path]:
    """Files that hold it; not what is no regular file, such as sockets."""
    return [p for p in folder.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


@dataclass(frozen=True)
class Places:
    """In a bucket, where each job finds and leaves its part."""

    bucket: str
    epochs: int
    trials: int

    def at(self, name: str) -> str:
        return f"{self.bucket}/{name}"

    def commands(self) -> dict[str, str]:
        """Of each job, its arguments."""
        small = "model.hidden=4 train.folds=4"
        clips, store, run, sweep, scores = (self.at(name) for name in ("clips", "store", "run", "sweep", "scores"))
        epochs = f"train.epochs={self.epochs} train.patience={self.epochs}"
        return {
            "extract": f"{clips} --out {store} --streams acoustic --shard-size {SHARD_SIZE}",
            "train": f"{store} --out {run} {small} model.hops=2 train.batch_size=7 {epochs} --workers 1 --checkpoint-seconds 0",
            "tune": f"{store} --out {sweep} {small} --space training --trials {self.trials} --no-asha --epochs 2",
            "score": f"{run} {clips} --out {scores} --shard-size {SHARD_SIZE}",
            "matrix": f"{store} --out {self.at('runs')} --rows few_audio --folds 0 --seeds 1 {small} train.epochs=1",
            "ablate": f"{run} --levels 1 --repeats 1",
        }


def assert_the_same_here(there: Places, source: Path, work: Path) -> None:
    """The same, from the clips on, on this machine without Ray, without a network: the store's and the models' bytes, the
    predictions and the scores must be equal."""
    here = extracted_here(source, work / "store")
    assert contents(Folder(there.at("store/features/acoustic"))) == contents(here.folder.at("features/acoustic"))

    config = merge(experiment("rrnn").to_dict(), {"model": {"hidden": 4, "hops": 2}})
    config["train"] |= {"batch_size": 7, "folds": 4, "epochs": there.epochs, "patience": there.epochs}
    run, remote = trained_here(config, here.folder.url, work / "run", work / "a"), RunFolder(there.at("run"))
    assert remote.read("model/model.safetensors") == run.read("model/model.safetensors")
    assert rows_of(remote.read("predictions.parquet")) == rows_of(run.read("predictions.parquet"))
    assert remote.read_json("summary.json")["test"] == run.read_json("summary.json")["test"]
    assert len(remote.read("metrics.jsonl").splitlines()) == len(run.read("metrics.jsonl").splitlines())

    of_row = merge(experiment("few_audio").to_dict(), {"model": {"hidden": 4}, "train": {"folds": 4, "epochs": 1}})
    of_matrix = trained_here(of_row, here.folder.url, work / "matrix", work / "c")
    remote_run = RunFolder(there.at("runs/few_audio/fold0-seed0"))
    assert remote_run.read("model/model.safetensors") == of_matrix.read("model/model.safetensors")
    ablated, about = read_ablation(remote)
    assert about is not None
    assert repr(ablated) == repr(ablate_run(run.url, (0.0, 1.0), 1, None))  # NaN is no level, and no NaN equals another

    sweep = Sweep(there.at("sweep"))
    assert [t.state for t in sweep.trials(there.trials)] == ["done"] * there.trials
    assert len(sweep.openings()) == 1
    for trial in sweep.trials(there.trials):
        assert trial.choices is not None
        of_trial = sweep.config(sweep.settings(), trial.choices).to_dict()
        alone = trained_here(of_trial, here.folder.url, work / trial.name, work / f"b{trial.name}", test=False)
        assert sweep.run_folder(trial.number).read("model/model.safetensors") == alone.read("model/model.safetensors")

    scored, scores = contents(scored_here(run, source, work / "scores")), contents(Folder(there.at("scores/scores")))
    assert {n: rows_of(data) for n, data in scores.items()} == {n: rows_of(data) for n, data in scored.items()}
    assert sorted(row["clip_id"] for data in scores.values() for row in rows_of(data)) == [f"{i:02}" for i in range(CLIPS)]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_every_job_in_a_bucket_ends_as_on_this_machine(proxy: FaultyProxy, tmp_path: Path, ray_files: Path) -> None:
    there, source = Places(new_bucket(), epochs=4, trials=2), make_clips(tmp_path / "clips")
    put(source, there.at("clips"))
    commands = [[name, *arguments.split()] for name, arguments in there.commands().items()]
    commands += [["export", there.at("run"), "--out", str(tmp_path / "model.pt2")]]
    commands += [["report", there.at("run"), "--out", str(tmp_path / "report")], commands[0]]  # the last finds all done
    where = environment(proxy.url, SECRET)
    proxy.share = 0.04
    job = Job(["tests.several_jobs", json.dumps(commands)], tmp_path / "log", where | {"RAY_TMPDIR": str(ray_files)})
    log = job.finish(seconds=540)
    proxy.share = 0.0
    assert all(proxy.counts[kind] for kind in FAULTS), proxy.counts
    assert_the_same_here(there, source, tmp_path)
    assert f"0 new clips, {CLIPS} known" in log
    assert "3 done, 0 to do" in log
    assert '"kind":"audio/webm"' in (tmp_path / "report/report.html").read_text(), "recordings came from the bucket"
    secret = where["AWS_SECRET_ACCESS_KEY"]
    assert (tmp_path / "model.pt2").stat().st_size > 1000
    assert secrets_in(ray_files, secret) == []
    assert secret not in log


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not REAL, reason="takes minutes: run against a server of RRNN_TEST_S3_ENDPOINT alone")
def test_jobs_that_are_killed_go_on_in_a_bucket(proxy: FaultyProxy, tmp_path: Path) -> None:
    there, source = Places(new_bucket(), epochs=10, trials=4), make_clips(tmp_path / "clips")
    put(source, there.at("clips"))
    store, run, sweep, scores = (
        Folder(url) for url in (there.at("store"), there.at("run"), there.at("sweep"), there.at("scores"))
    )
    half_done = {
        "extract": lambda: len(store.at("features/acoustic").names(".parquet")) >= 1,
        "train": lambda: run.exists("metrics.jsonl") and len(run.read("metrics.jsonl").splitlines()) >= 3,
        "tune": lambda: any(sweep.at("trials", name).exists("summary.json") for name in sweep.at("trials").names()),
        "score": lambda: len(scores.at("scores").names(".parquet")) >= 1,
    }
    proxy.share = 0.05
    where = environment(proxy.url, SECRET)
    for name, arguments in there.commands().items():
        killed = Job([f"jobs.{name}", *arguments.split()], tmp_path / "log", where)
        killed.until(half_done[name], seconds=300)
        killed.kill()
        Job([f"jobs.{name}", *arguments.split()], tmp_path / "log", where).finish(seconds=540)
    assert all(proxy.counts[kind] for kind in FAULTS), proxy.counts
    assert_the_same_here(there, source, tmp_path)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_network_that_stays_down_ends_the_job_with_one_line(proxy: FaultyProxy, tmp_path: Path, ray_files: Path) -> None:
    bucket = new_bucket()
    source = make_clips(tmp_path / "clips")
    store, clips = f"{bucket}/store", put(source, f"{bucket}/clips")
    command = ["jobs.extract", clips, "--out", store, "--streams", "acoustic", "--shard-size", str(SHARD_SIZE)]
    where = environment(proxy.url, SECRET) | {"AWS_MAX_ATTEMPTS": "2", "RAY_TMPDIR": str(ray_files)}
    proxy.script.append(("PUT /" + store.removeprefix("s3://") + "/features/acoustic/00000-0002", "down"))
    job = Job(command, tmp_path / "log", where)
    assert job.process.wait(timeout=120) == 3
    log = (tmp_path / "log").read_text()
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert store.removeprefix("s3://").partition("/")[0] in errors[0]
    assert f"can't connect to {proxy.url}, 2 times" in errors[0] or f"at {proxy.url} failed, 2 times" in errors[0]
    assert "Traceback" not in log
    secret = where["AWS_SECRET_ACCESS_KEY"]
    assert secret not in log
    assert secrets_in(ray_files, secret) == []

    proxy.down = False
    before = contents(Folder(f"{store}/features/acoustic"))
    assert "00000-0002.parquet" not in before
    here = contents(extracted_here(source, tmp_path / "store").folder.at("features/acoustic"))
    assert before.items() <= here.items(), "what is there is whole"


def refused(job: str, *arguments: object) -> tuple[int, str, float]:
    """Exit code, output, and seconds."""
    began = time.monotonic()
    result = CliRunner().invoke(JOBS[job], [str(a) for a in arguments], catch_exceptions=False)
    return result.exit_code, result.output, time.monotonic() - began


def commands_on(bucket: str) -> dict[str, tuple[object, ...]]:
    return {
        "extract": (f"{bucket}/clips", "--out", f"{bucket}/store", "--streams", "acoustic"),
        "train": (f"{bucket}/store", "--out", f"{bucket}/run"),
        "tune": (f"{bucket}/store", "--out", f"{bucket}/sweep", "--space", "training"),
        "score": (f"{bucket}/run", f"{bucket}/clips", "--out", f"{bucket}/scores"),
        "report": (f"{bucket}/run", "--out", "/nonexistent/report"),
    }


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def ray_started(*_: object, **__: object) -> None:
        raise AssertionError("Ray was asked for")

    for name in ("extract", "train", "tune", "score"):
        monkeypatch.setattr(f"jobs.{name}.ray_started", ray_started)


@pytest.mark.parametrize("job", JOBS)
def test_a_bucket_that_cannot_be_used_is_refused_before_ray(
    job: str, proxy: FaultyProxy, no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHECK_ATTEMPTS", 1)
    code, output, _ = refused(job, *commands_on("s3://there-is-no-such-bucket")[job])
    assert code == 2
    assert output.startswith("error: s3://there-is-no-such-bucket/")
    assert "404" in output
    assert output.count("\n") == 1

    code, output, _ = refused(job, *commands_on("s3://key:password@bucket")[job])
    assert code == 2
    assert "found credentials in the address" in output
    assert "password" not in output

    nobody = f"http://127.0.0.1:{free_port()}"
    speak_to(monkeypatch, {"AWS_ENDPOINT_URL": nobody})
    code, output, _ = refused(job, *commands_on("s3://bucket")[job])
    assert code == 3
    assert output.count("\n") == 1
    assert f"can't connect to {nobody}" in output
    assert SECRET not in output

    monkeypatch.setattr(files, "CHECK_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        speak_to(monkeypatch, {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        code, output, seconds = refused(job, *commands_on("s3://bucket")[job])
    assert code == 3
    assert "no answer within 1 s" in output
    assert seconds < 10


def test_wrong_credentials_are_refused_and_not_shown(no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server({"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if not REAL else None) as strict:
        wrong = {"AWS_ACCESS_KEY_ID": "AKWRONG", "AWS_SECRET_ACCESS_KEY": SECRET}
        speak_to(monkeypatch, environment(strict, SECRET) | wrong)
        for job, arguments in commands_on("s3://bucket").items():
            code, output, _ = refused(job, *arguments)
            assert code == 3
            assert output.count("\n") == 1
            assert f"{strict} refused the credentials (InvalidAccessKeyId)" in output
            assert SECRET not in output
