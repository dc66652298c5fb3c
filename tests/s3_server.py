"""A server that speaks S3, for tests: moto in a process of its own, or the one at RRNN_TEST_S3_ENDPOINT, with the credentials
of the standard variables; and buckets of their own in it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from urllib.request import urlopen

import pytest
from processes import free_port

from pipeline.s3 import S3

REAL = os.environ.get("RRNN_TEST_S3_ENDPOINT", "")
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@contextlib.contextmanager
def s3_server(more: Mapping[str, str] | None = None) -> Iterator[str]:
    """Its address. more: of moto's environment; then it is moto, whatever server there is."""
    if REAL and more is None:
        yield REAL
        return
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**os.environ, **(more or {})}, **quiet) as process:  # type: ignore[call-overload]
        try:
            end = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), urlopen(f"{url}/moto-api/"):
                    break
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
            yield url
        finally:
            process.kill()


def environment(url: str, secret: str = "not-a-secret") -> dict[str, str]:
    """What a job needs to find the server at this address, and to be let in."""
    own = {"AWS_ACCESS_KEY_ID": "AKTEST", "AWS_SECRET_ACCESS_KEY": secret}
    return {
        **({name: os.environ[name] for name in CREDENTIALS} if REAL else own),
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def speak_to(patch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    """Have this process find S3 there from now on."""
    for name, value in variables.items():
        patch.setenv(name, value)
    S3.clear_instance_cache()


def new_bucket() -> str:
    name = f"speech-{uuid.uuid4().hex}"
    S3().call_s3("create_bucket", Bucket=name)
    return f"s3://{name}"
