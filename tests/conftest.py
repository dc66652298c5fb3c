"""One Ray for the whole suite: starting it costs seconds."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

import jobs  # noqa: F401  its Ray wants a token, which must be there before Ray is imported

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of the pipeline last: their last files are short, so that the processes that share the files end together."""
    items.sort(key=lambda item: item.path.parent.name == "pipeline")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """What is yielded marks its processes (processes.living)."""
    import ray

    from jobs._machines import DISTRIBUTED
    from pipeline.on_ray import ray_started

    os.environ.pop("RAY_ADDRESS", None)
    os.environ["TEST_RAY"] = uuid.uuid4().hex
    with ray_started(num_cpus=2, first=DISTRIBUTED, then=["jobs.train", "jobs.tune", "jobs.score", "jobs.matrix"]):
        assert ray.is_initialized()
        yield f"TEST_RAY={os.environ['TEST_RAY']}"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a server that speaks S3. Buckets have names of their own, so that all tests may share it."""
    from s3_server import s3_server

    with s3_server() as url:
        yield url
