"""A store's features in Ray's shared memory, and who is on which side, for jobs that train."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from jobs._cli import console
from rrnn.data import ClipSet, StoreIndex, read_shard
from rrnn.splits import SIDES, Split

READERS = 8


def load_clips(store: StoreIndex) -> list[Any]:
    """References to the store's shards, as Arrow tables, in Ray's shared memory: every worker on a machine reads them without a
    copy. This process reads them, for it needs them all to divide them; Ray Data, which would spread the reading, starts
    actors and workers that import this program: a dozen seconds of CPU time before the first byte."""
    with ThreadPoolExecutor(READERS) as pool:  # which put what they read: no more tables are here than readers
        return list(pool.map(lambda shard: ray.put(read_shard(store, shard)), store.shards))


def tell_split(clips: ClipSet, split: Split) -> None:
    """Say how the clips were divided, what is doubtful about it, and how many are on each side."""
    console.print(f"  {split.how}", style="yellow" if "WARNING" in split.how else None)
    train, valid, test = (len(split.side(side)) for side in SIDES)
    left = len(clips) - train - valid - test
    out = f"; {left} are left out, without a label, a stream or a fold" if left else ""
    console.print(f"  {len(clips)} clips: {train} train, {valid} decide when to stop, {test} test{out}")
