"""A cluster that begins without a machine: they come when there is work, and go when there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from growing import GrowingCluster
from sources import tones
from stores import make_store

from pipeline.corpora.folder import FolderCorpus
from pipeline.extract import extract_shard
from pipeline.on_ray import AT_FIRST, UNITS_EACH, pool_size
from pipeline.store import Store
from pipeline.streams.acoustic import Acoustic

MOST = 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrowingCluster]:
    found = GrowingCluster(tmp_path_factory.mktemp("growing"), most=MOST, idle=5)
    try:
        found.head.until(lambda: "Ray runtime started" in found.head.log.read_text())
        yield found
    finally:
        found.close()


def test_a_pool_begins_with_what_has_room_and_may_become_as_large_as_its_work() -> None:
    assert pool_size(100, 8, None) == (8, 100)
    assert pool_size(3, 8, None) == (3, 3)
    assert pool_size(100, 8, 5) == (5, 5)
    assert pool_size(10 * UNITS_EACH, 0, None) == (10, 10 * UNITS_EACH)  # nothing is there: machines are asked for
    assert pool_size(10 * UNITS_EACH, 0, 7) == (7, 7)
    assert pool_size(1, 0, None) == (1, 1)
    assert pool_size(1000 * AT_FIRST, 0, None) == (AT_FIRST, 1000 * AT_FIRST)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_job_says_which_machines_it_waits_for(cluster: GrowingCluster, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store").url
    command = ["jobs.train", store, "--out", tmp_path / "run", "--workers", MOST + 1]
    job = cluster.job(command, tmp_path / "log")
    line = "waiting for 3 workers of 1 CPU: the cluster has 0 CPUs (0 free); it must bring more machines"
    job.until(lambda: line in job.log.read_text(), seconds=60)
    job.kill()
    assert cluster.machines == 0  # two would be of no use


@pytest.mark.slow
@pytest.mark.cluster
def test_extraction_brings_machines_and_lets_them_go(
    cluster: GrowingCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tones(tmp_path / "clips", 48, seconds=8)
    whole = Store.create(str(tmp_path / "whole"), "folder", 2)
    whole.add_clips(FolderCorpus().clips(str(tmp_path / "clips"), print))
    whole.begin_stream(Acoustic())

    cluster.head.until(lambda: cluster.machines == 0)
    began, seen = time.monotonic(), {0: 0.0}
    out = tmp_path / "grown"
    command = ["jobs.extract", tmp_path / "clips", "--out", out, "--streams", "acoustic", "--shard-size", 2]
    job = cluster.job(command, tmp_path / "log")
    while job.process.poll() is None:
        seen.setdefault(cluster.machines, time.monotonic() - began)
        time.sleep(0.1)
    job.finish()
    ended = time.monotonic()
    cluster.head.until(lambda: cluster.machines == 0)
    gone = time.monotonic() - ended
    with capsys.disabled():
        came = ", ".join(f"machine {n} after {at:.0f} s" for n, at in seen.items() if n)
        print(f"\n{came}; the job took {ended - began:.0f} s; none left {gone:.0f} s after it")
    assert max(seen) == MOST
    for shard in whole.shards():
        extract_shard(whole, Acoustic(), shard)
    stores = [
        {p.name: p.read_bytes() for p in folder.glob("features/acoustic/*.parquet")} for folder in (out, tmp_path / "whole")
    ]
    assert len(stores[0]) == 24
    assert stores[0] == stores[1]
