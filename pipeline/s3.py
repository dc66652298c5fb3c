"""How a bucket on S3 is spoken to: what is tried again and for how long, and what is said in the end.

pipeline.files registers the file system below for s3://: whoever opens such an address by fsspec gets it, rrnn and Ray too.

- A request that is throttled (503 SlowDown, 429), answered with another 5xx, or lost is tried again by botocore, with a backoff
  that doubles and varies. AWS_MAX_ATTEMPTS and AWS_RETRY_MODE say how often and how, as for any other program.
- An object's content that breaks off is asked for again. It is read within its request, whole, so that this holds however it
  is read: fsspec's own loops leave some ways out.
- What then still fails is a StorageError that names bucket and object, and the endpoint. It is no OSError: fsspec, and others,
  take these for "there is no such file", and a store that can't be seen would be begun anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import s3fs
from botocore import exceptions as of_botocore
from fsspec.asyn import sync
from s3fs.errors import translate_boto_error

from pipeline.files import StorageError

MAX_ATTEMPTS = 10
"""Of a request: about a minute of waiting in all, and the time that each attempt takes."""
CONNECT_SECONDS = 5
READ_SECONDS = 30
"""Without a byte from the server."""
BODY_WAITS = (0.2, 0.8, 3.0, 10.0, 20.0)
"""Seconds before an object whose content broke off is asked for again."""

THROTTLED = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"})
CREDENTIALS = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "RequestTimeTooSkewed",
    }
)
TOO_SLOW = frozenset({"RequestTimeout", "RequestTimeoutException"})


def retry_settings() -> dict[str, Any]:
    """botocore's settings of retries, but for those that the environment makes."""
    found: dict[str, Any] = {}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        found["total_max_attempts"] = MAX_ATTEMPTS
    if "AWS_RETRY_MODE" not in os.environ:
        found["mode"] = "standard"
    return found


class S3(s3fs.S3FileSystem):  # type: ignore[misc]
    """s3fs, with one way of retrying and one kind of error."""

    protocol = ("s3", "s3a")
    connect_timeout = CONNECT_SECONDS
    read_timeout = READ_SECONDS
    retries = 1  # of s3fs's own, around those that are made here

    def __init__(self, *args: Any, config_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, config_kwargs={"retries": retry_settings(), **(config_kwargs or {})}, **kwargs)

    async def set_session(self, *args: Any, **kwargs: Any) -> Any:
        try:
            client = await super().set_session(*args, **kwargs)
        except of_botocore.BotoCoreError as e:  # such as a profile that is not there
            raise ValueError(f"S3: {e}") from None
        client.meta.events.register_first("needs-retry.s3", _name_throttling, unique_id="rrnn-429")
        return client

    async def _call_s3(self, method: str, *defaults: Any, **parameters: Any) -> Any:
        client = await self.set_session()
        call = getattr(client, method)
        arguments = self._get_s3_method_kwargs(call, *defaults, **parameters)
        for wait in (*BODY_WAITS, None):
            answered = False
            try:
                answer = await call(**arguments)
                answered = True
                if method == "get_object":
                    async with answer["Body"] as body:
                        answer["Body"] = _Content(await body.read())
                return answer
            except Exception as e:
                broke_off = answered or isinstance(e, aiohttp.ClientError)  # the latter in the text of an error
                if not broke_off or wait is None:
                    if await self._was_done(method, arguments, e):
                        return {}
                    raise _explained(e, method, arguments, client) from None  # its own words may hold addresses in full
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _was_done(self, method: str, arguments: Mapping[str, Any], error: Exception) -> bool:
        """Whether an upload in parts that can't be ended, since there is no such upload, was ended by an attempt before, whose
        answer was lost: then the object is there, and made of these parts."""
        if not isinstance(translate_boto_error(error), FileNotFoundError):
            return False
        if method != "complete_multipart_upload":
            return method == "abort_multipart_upload"
        digests = [bytes.fromhex(part["ETag"].strip('"')) for part in arguments["MultipartUpload"]["Parts"]]
        whole = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
        try:
            there = await self._call_s3("head_object", Bucket=arguments["Bucket"], Key=arguments["Key"])
        except FileNotFoundError:
            return False
        return bool(there["ETag"].strip('"') == f"{whole}-{len(digests)}")

    def check(self, bucket: str, prefix: str, seconds: float) -> None:
        """Ask for a listing. Raises as any request; FSTimeoutError where that takes longer."""
        sync(self.loop, self._call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1, timeout=seconds)

    def sweep(self, path: str, seconds: float) -> int:
        """Delete the parts of uploads below a path that were begun so long ago and never ended; returns how many uploads."""
        return int(sync(self.loop, self._sweep, path, seconds))

    async def _sweep(self, path: str, seconds: float) -> int:
        bucket, prefix, _ = self.split_path(path)
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        try:
            found = await self._call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
        except OSError:  # not allowed, or not known to this server: left to the bucket's own rules
            return 0
        old = [upload for upload in found.get("Uploads", []) if upload["Initiated"] < before]
        for upload in old:
            await self._call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(old)


class _Content:
    """What was read of an object, as the stream that s3fs expects."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def read(self, n: int = -1) -> bytes:
        return self._file.read(n)

    def close(self) -> None:
        self._file.close()


def _name_throttling(response: tuple[Any, dict[str, Any]] | None = None, **_: Any) -> None:
    """botocore's standard retries know throttling by its names; a bare 429 has none."""
    if response is not None and response[0].status_code == 429:
        response[1].setdefault("Error", {})["Code"] = "SlowDown"


def _explained(error: Exception, method: str, arguments: Mapping[str, Any], client: Any) -> Exception:
    """The same for people: whose fault it is by its type, and in its text the address and what happened."""
    where = f"s3://{arguments.get('Bucket', '')}/{arguments.get('Key', arguments.get('Prefix', ''))}"
    endpoint = _without_user(client.meta.endpoint_url)
    attempts = client.meta.config.retries.get("total_max_attempts", "several")
    if isinstance(error, of_botocore.ClientError):
        about, code = error.response["Error"], str(error.response["Error"].get("Code"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= 500 or status == 429 or code in THROTTLED | TOO_SLOW:
            return StorageError(f"{where}: {endpoint} answered {status} {code} to {method}, {attempts} times")
        if code in CREDENTIALS:
            return StorageError(f"{where}: {endpoint} refused the credentials ({code})")
        return translate_boto_error(error, f"{where}: {about.get('Message') or code} ({status} to {method})", set_cause=False)  # type: ignore[no-any-return]
    if isinstance(error, of_botocore.NoCredentialsError | of_botocore.PartialCredentialsError):
        return StorageError(f"{where}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role")
    if isinstance(error, of_botocore.ParamValidationError):
        return ValueError(f"{where}: expected a bucket and a key as S3 allows them")
    if isinstance(error, of_botocore.ConnectTimeoutError | of_botocore.EndpointConnectionError):
        return StorageError(f"{where}: can't connect to {endpoint}, {attempts} times")
    if isinstance(error, of_botocore.BotoCoreError | aiohttp.ClientError | OSError):
        return StorageError(f"{where}: {method} at {endpoint} failed, {attempts} times: {type(error).__name__}")
    return error


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
