"""Workers ask Ray for a GPU where an extractor can use one, and nobody falls back to the CPU in silence."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipeline.on_ray import placed
from pipeline.streams.acoustic import Acoustic
from pipeline.streams.speech import Speech


def test_without_a_gpu_auto_says_so_and_asking_for_one_is_an_error(ray_cluster: None) -> None:
    both = [Acoustic(), Speech()]
    assert placed(both, "0") == (both, "")
    extractors, line = placed(both, "auto")
    assert [e.gpus for e in extractors] == [0, 0]
    assert line == "no GPU in the cluster: extracting on the CPU"
    assert placed([Acoustic()], "auto") == ([Acoustic()], "")
    with pytest.raises(ValueError, match=r"--gpus 0\.5: this machine has 0 GPUs that Ray knows; --gpus 0 extracts on the CPU"):
        placed(both, "0.5")
    for wrong in ("2", "-1", "many", "nan"):
        with pytest.raises(ValueError, match=rf"--gpus {wrong}: expected auto, or a share"):
            placed(both, wrong)


def test_a_stream_on_a_gpu_is_the_same_stream() -> None:
    speech = Speech(window=10)
    moved = speech.on_gpu(0.5)
    assert (moved.gpus, speech.gpus) == (0.5, 0)
    assert moved.describe() == speech.describe()
    assert moved.changed(window=5.0).gpus == 0.5


def test_a_gpu_that_cuda_does_not_find_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="this worker was given a GPU, and CUDA finds none"):
        Speech().on_gpu(1.0).load()


@pytest.mark.slow
def test_workers_are_given_the_gpus_that_they_ask_for(tmp_path: Path) -> None:
    # In a process of its own, whose Ray believes that there are two GPUs: what is asked for and handed out is Ray's to say.
    (tmp_path / "seen.py").write_text(
        textwrap.dedent(
            """
            import os
            from dataclasses import dataclass
            from typing import ClassVar

            import numpy as np

            from pipeline.streams.base import Extractor, Features


            @dataclass(frozen=True)
            class Seen(Extractor):
                name: ClassVar = "seen"
                version: ClassVar = "1"
                modality: ClassVar = "audio"
                frame_shift: ClassVar = 1.0
                licence: ClassVar = "none"
                can_use_gpu: ClassVar = True
                reads_recording: ClassVar = False
                columns = ("device",)

                def extract(self, clip, media):
                    device = float(os.environ.get("CUDA_VISIBLE_DEVICES") or "nan")
                    return Features(np.array([[device]], np.float32), np.zeros(1))
            """
        )
    )
    program = """
        import json, sys
        import ray
        from pipeline.clip import Clip
        from pipeline.extract import pending
        from pipeline.on_ray import extract_on_ray, placed
        from pipeline.store import Store
        from seen import Seen

        ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
        store = Store.create(sys.argv[1], "folder", 1)
        store.add_clips(Clip(str(i), f"/{i}.wav") for i in range(6))
        extractors, line = placed([Seen()], "auto")
        store.begin_stream(extractors[0])
        todo, _ = pending(store, extractors)
        list(extract_on_ray(store, extractors, todo, clip_seconds=60))
        seen = [store.read_features("seen", shard) for shard in store.shards()]
        device = json.loads(seen[0].schema.metadata[b"rrnn"])["device"]
        print(json.dumps([line, device, sorted({v[0] for t in seen for v in t["values"].to_pylist()})]))
    """
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{root}", "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == '["seen on 1 GPU a worker", "gpu", [0.0, 1.0]]'
