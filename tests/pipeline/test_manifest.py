"""The manifest of many clips: several parts, any order, and little memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import manifest
from pipeline.clip import Clip
from pipeline.manifest import BATCH
from pipeline.store import Store

SHARD, A_PART = 16, 32


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "SHARDS_A_PART", A_PART)


def clip(i: int) -> Clip:
    return Clip(f"{i:06d}", f"/media/{i}.wav", speaker=f"s{i % 7}", transcript=f"words of {i}", attributes={"take": str(i % 3)})


def clips(n: int) -> Iterator[Clip]:
    return (clip(i) for i in range(n))


def digests(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("manifest/*")}


def test_what_moved_is_brought_up_to_date_in_its_place_in_every_part(tmp_path: Path) -> None:
    n = 5 * A_PART * SHARD + 200
    store = Store.create(str(tmp_path), "folder", SHARD)
    assert store.add_clips(clips(n)) == (n, 0)
    assert len(digests(tmp_path)) == 6
    now = {i: replace(clip(i), uri=f"/other/{i}.wav", emotion="sad") if i % 5 == 0 else clip(i) for i in range(n + 300)}
    order = list(now)
    random.Random(0).shuffle(order)
    assert store.add_clips(now[i] for i in order) == (300, n)
    assert list(store.manifest)[:n] == [now[i] for i in range(n)]
    assert [c.clip_id for c in store.manifest][n:] == [clip(i).clip_id for i in order if i >= n]
    first = (A_PART + 3) * SHARD
    assert store.clips("00001-0003") == [now[i] for i in range(first, first + SHARD)]
    before = digests(tmp_path)
    assert store.add_clips(now.values()) == (0, n + 300)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("known", [0, 2 * BATCH])
def test_a_clip_that_comes_again_much_later_is_named(tmp_path: Path, known: int) -> None:
    store = Store.create(str(tmp_path), "folder")
    store.add_clips(clips(known))
    before = digests(tmp_path)
    with pytest.raises(ValueError, match="clip id '000007' comes twice"):
        store.add_clips([*clips(3 * BATCH), clip(7)])
    assert digests(tmp_path) == before


def test_a_source_that_breaks_off_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "folder")
    store.add_clips(clips(10))
    before = digests(tmp_path)

    def broken() -> Iterator[Clip]:
        yield from (replace(clip(i), emotion="sad") for i in range(3 * BATCH))
        raise ValueError("line 4000: no path")

    with pytest.raises(ValueError, match="line 4000"):
        store.add_clips(broken())
    assert digests(tmp_path) == before


def test_of_two_jobs_that_list_at_once_one_adds_its_clips(tmp_path: Path) -> None:
    Store.create(str(tmp_path), "folder")

    def while_another_lists() -> Iterator[Clip]:
        yield Clip("a", "/a.wav")
        Store(str(tmp_path)).add_clips([Clip("a", "/a.wav"), Clip("b", "/b.wav")])
        yield Clip("b", "/b.wav")

    with pytest.raises(ValueError, match=r"another job added clips to .* while this one listed"):
        Store(str(tmp_path)).add_clips(while_another_lists())
    assert [clip.clip_id for clip in Store(str(tmp_path)).manifest] == ["a", "b"]


def test_another_speaker_is_refused_where_it_must_stay(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "folder")
    store.add_clips(clips(10))
    before = digests(tmp_path)
    other = [replace(clip(3), speaker="anna"), replace(clip(4), emotion="sad")]
    with pytest.raises(ValueError, match="the speaker of 1 clips changed, such as of '000003' from 's3' to 'anna'"):
        store.add_clips(other, same_speakers=True)
    assert digests(tmp_path) == before
    assert store.add_clips(other) == (0, 2)


def test_memory_does_not_grow_with_the_clips(tmp_path: Path) -> None:
    """More than the few bytes of a clip that the docstring names; a clip's row alone takes more than 1,000."""

    def peak(n: int, name: str) -> int:
        store = Store.create(str(tmp_path / name), "folder", SHARD)
        tracemalloc.start()
        store.add_clips(clips(n))
        store.add_clips(clips(n))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = peak(2 * BATCH, "few"), peak(6 * BATCH, "many")
    assert many - few < 4 * BATCH * 150
