"""Who may reach the Ray that a job starts for itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASK = "import sys; from ray._raylet import GcsClient; print(len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)))"


@pytest.mark.parametrize(
    ("change", "welcome"),
    [
        pytest.param({}, True, id="a child of the job"),
        pytest.param({"RAY_AUTH_MODE": "disabled"}, False, id="no token"),
        pytest.param({"RAY_AUTH_TOKEN": "x" * 43}, False, id="another token"),
    ],
)
def test_a_ray_of_our_own_wants_its_token(ray_cluster: None, change: dict[str, str], welcome: bool) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    result = subprocess.run(
        [sys.executable, "-c", ASK, address],
        env={**os.environ, **change},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode == 0) is welcome, result.stderr
    assert welcome or "token" in result.stderr
