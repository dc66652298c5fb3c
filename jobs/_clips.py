"""A store's features in Ray's shared memory, for jobs that train."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from rrnn.data import StoreIndex, read_shard

READERS = 8


def load_clips(store: StoreIndex) -> list[Any]:
    """References to the store's shards, as Arrow tables, in Ray's shared memory: every worker on a machine reads them without a
    copy. This process reads them, for it needs them all to divide them; Ray Data, which would spread the reading, starts
    actors and workers that import this program: a dozen seconds of CPU time before the first byte."""
    with ThreadPoolExecutor(READERS) as pool:  # which put what they read: no more tables are here than readers
        return list(pool.map(lambda shard: ray.put(read_shard(store, shard)), store.shards))
