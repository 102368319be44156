"""S3-compatible storage: the only module of the command line that imports boto3 and botocore."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

from finetune_api.spec import AddressingStyle
from finetune_api.uris import S3Location
from finetune_cli.errors import StoreError
from finetune_cli.store.interface import CHUNK_BYTES, Access, NotThere

_STYLES = {AddressingStyle.PATH: "path", AddressingStyle.VIRTUAL: "virtual"}
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_DENIED = frozenset({"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})
_NO_CREDENTIALS = (
    "no credentials for the object store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; the job's "
    "Secret is not read"
)


class S3Store:
    """See :class:`finetune_cli.store.interface.Store`."""

    def __init__(self, access: Access) -> None:
        self._endpoint = access.endpoint or os.environ.get("AWS_ENDPOINT_URL") or None
        self._access = access
        self._made: Any = None

    @property
    def _client(self) -> Any:
        if self._made is None:
            self._made = self._connect()
        return self._made

    def _connect(self) -> Any:
        # Stores other than AWS do not all know the checksums that botocore asks for by default.
        own = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        config = Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 3},
            s3={"addressing_style": _STYLES.get(self._access.style, "path" if self._endpoint else "auto")},
            **(own if self._endpoint else {}),
        )
        try:
            session = boto3.session.Session()
            region = self._access.region or os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
            return session.client("s3", endpoint_url=self._endpoint, region_name=region, config=config)
        except (ProfileNotFound, ValueError) as error:
            raise StoreError(f"the object store cannot be used: {error}") from error

    def read(self, location: S3Location) -> bytes:
        return b"".join(self.chunks(location))

    def chunks(self, location: S3Location, start: int = 0) -> Iterator[bytes]:
        span = {"Range": f"bytes={start}-"} if start else {}
        with self._words(location):
            body = self._client.get_object(Bucket=location.bucket, Key=location.key, **span)["Body"]
            # Entering a StreamingBody gives the raw response, which has no iter_chunks.
            with closing(body):
                yield from body.iter_chunks(CHUNK_BYTES)

    @contextmanager
    def _words(self, location: S3Location) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._refusal(error, location) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreError(_NO_CREDENTIALS) from error
        except BotoCoreError as error:
            raise StoreError(
                f"the object store at {self._endpoint or 'AWS'} does not answer: {error}. An endpoint inside a cluster "
                "cannot be reached from outside: name one that can with --store URL"
            ) from error

    def _refusal(self, error: ClientError, location: S3Location) -> StoreError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _ABSENT:
            return NotThere(f"{location} does not exist")
        if code == "NoSuchBucket":
            return StoreError(f"there is no bucket {location.bucket!r} at {self._endpoint or 'AWS'}; see --store URL")
        if code in _DENIED:
            return StoreError(f"your credentials may not read {location} ({code}); use others, such as AWS_PROFILE")
        return StoreError(f"the object store does not give {location}: {error}")
