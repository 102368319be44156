"""S3-compatible storage, and the choice between it and a folder.

The only module that imports botocore and s3transfer, the two libraries behind boto3. boto3 itself would only add to the
start-up time. Every error of theirs leaves as a :class:`TrainerError` in words.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from finetune_api.plan import RunPlan, StoreAccess
from finetune_api.spec import AddressingStyle
from finetune_api.uris import S3Location
from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.storage.folder import FolderStore
from finetune_trainer.storage.interface import CHUNK_BYTES, ObjectStore, StoredObject, StoreFields, fields_of
from finetune_trainer.storage.s3errors import (
    EXISTS,
    NOT_FOUND,
    Refusal,
    missing_bucket,
    missing_credentials,
    refusal,
    unreachable,
)

# Objects of this size and more are moved in parts, several at a time.
_PARTS_BYTES = 8 << 20
# Parts in memory at once: 32 MiB for an upload.
_IN_MEMORY = {"max_request_concurrency": 4, "max_in_memory_upload_chunks": 4, "multipart_chunksize": _PARTS_BYTES}
_KEY_PAIR = ("aws_access_key_id", "aws_secret_access_key")
_STYLES = {AddressingStyle.PATH: "path", AddressingStyle.VIRTUAL: "virtual"}


def open_store(access: StoreAccess, environment: Mapping[str, str], fields: StoreFields) -> ObjectStore:
    """Opens a store; nothing is sent before the first call.

    Raises:
        UserError: the named Secret lacks a key, or its endpoint holds credentials, which messages would repeat.
    """
    endpoint = access.endpoint_url or _variable(access, environment, "AWS_ENDPOINT_URL")
    if endpoint and "@" in endpoint:
        raise UserError(
            f"the endpoint in the Secret of {fields.access} holds a user or a password",
            "take both out of AWS_ENDPOINT_URL; credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if endpoint and endpoint.startswith("file://"):
        return FolderStore(Path(endpoint.removeprefix("file://")), fields)
    return S3Store(access, environment, fields)


def store_of(plan: RunPlan, use: str, environment: Mapping[str, str]) -> ObjectStore:
    """Opens the store of one use of the plan, such as ``output``, ``model`` or ``train-0``."""
    return open_store(plan.stores[use], environment, fields_of(plan, use))


def _variable(access: StoreAccess, environment: Mapping[str, str], name: str) -> str | None:
    return environment.get(f"{access.environment_prefix or ''}{name}") or None


@dataclass(frozen=True)
class _Connection:
    """What an S3 client is made from. Uses of a plan that share it share the client: making one takes 100 ms."""

    endpoint: str | None
    region: str | None
    style: AddressingStyle
    credentials: tuple[tuple[str, str], ...] = field(repr=False)


@lru_cache
def _client_of(connection: _Connection) -> Any:
    session, endpoint = botocore.session.Session(), connection.endpoint
    # Stores other than AWS do not all know the checksums that botocore adds by default.
    own = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 3},
        s3={"addressing_style": _STYLES.get(connection.style, "path" if endpoint else "auto")},
        **(own if endpoint else {}),
    )
    region = connection.region or session.get_config_variable("region") or "us-east-1"
    return session.create_client(
        "s3", endpoint_url=endpoint, region_name=region, config=config, **dict(connection.credentials)
    )


class _View(io.RawIOBase):
    """Memory as a file that is read in place: a buffer of the standard library would copy all of it."""

    def __init__(self, content: memoryview) -> None:
        super().__init__()
        self._content, self._position = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._content)}[whence]
        self._position = min(max(0, origin + offset), len(self._content))
        return self._position

    def readinto(self, buffer: Any) -> int:
        piece = self._content[self._position : self._position + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


class S3Store:
    """An S3-compatible store; see :class:`finetune_trainer.storage.interface.ObjectStore`."""

    def __init__(self, access: StoreAccess, environment: Mapping[str, str], fields: StoreFields) -> None:
        self._fields = fields
        region = _variable(access, environment, "AWS_REGION") or _variable(access, environment, "AWS_DEFAULT_REGION")
        known = {name: _variable(access, environment, name.upper()) for name in (*_KEY_PAIR, "aws_session_token")}
        absent = [name.upper() for name in _KEY_PAIR if not known[name]]
        if absent and access.environment_prefix:
            raise missing_credentials(fields, f"the Secret has no {' and no '.join(absent)}")
        self._connection = _Connection(
            endpoint=access.endpoint_url or _variable(access, environment, "AWS_ENDPOINT_URL"),
            region=access.region or region,
            style=access.addressing_style,
            credentials=() if absent else tuple((name, value) for name, value in known.items() if value),
        )

    @property
    def _client(self) -> Any:
        try:
            return _client_of(self._connection)
        except ValueError as error:
            raise UserError(str(error), f"correct {self._fields.access}.endpointURL") from error

    def stat(self, location: S3Location) -> StoredObject | None:
        with self._words(location):
            try:
                head = self._client.head_object(Bucket=location.bucket, Key=location.key)
            except ClientError as error:
                if _answer(error).code in NOT_FOUND:
                    return None
                # An answer to HEAD has no body and so no reason; the same as GET says what is wrong.
                self._client.get_object(Bucket=location.bucket, Key=location.key)["Body"].close()
                raise
            return StoredObject(location, head["ContentLength"], head["ETag"].strip('"'))

    def objects(self, prefix: S3Location) -> Iterator[StoredObject]:
        folder = f"{prefix.key}/" if prefix.key else ""
        with self._words(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=folder)
            for page in pages:
                for entry in page.get("Contents", ()):
                    # A key that ends in a slash is how consoles draw a folder.
                    if not entry["Key"].endswith("/"):
                        found = S3Location(prefix.bucket, entry["Key"])
                        yield StoredObject(found, entry["Size"], entry["ETag"].strip('"'))

    def chunks(self, location: S3Location) -> Iterator[bytes]:
        # Entering a StreamingBody gives the raw response, which has no iter_chunks.
        with self._words(location):
            body = self._client.get_object(Bucket=location.bucket, Key=location.key)["Body"]
            with closing(body):
                yield from body.iter_chunks(CHUNK_BYTES)

    def read(self, location: S3Location, start: int = 0, length: int | None = None) -> bytes:
        end = "" if length is None else start + length - 1
        span = {} if start == 0 and length is None else {"Range": f"bytes={start}-{end}"}
        with self._words(location):
            content: bytes = self._client.get_object(Bucket=location.bucket, Key=location.key, **span)["Body"].read()
            return content

    def download(self, location: S3Location, path: Path) -> None:
        found = self.stat(location)
        if found is None or found.size < _PARTS_BYTES:
            path.write_bytes(self.read(location))
            return
        with self._parts(location) as manager:
            manager.download(location.bucket, location.key, str(path)).result()

    def upload(self, path: Path, location: S3Location) -> None:
        if path.stat().st_size < _PARTS_BYTES:
            self.put(location, path.read_bytes())
            return
        with self._parts(location) as manager:
            manager.upload(str(path), location.bucket, location.key).result()

    @contextmanager
    def _parts(self, location: S3Location) -> Iterator[Any]:
        # Imported here: small objects need none of it, and prepare often has to do with small objects only.
        from s3transfer.exceptions import RetriesExceededError
        from s3transfer.manager import TransferConfig, TransferManager

        with self._words(location):
            try:
                with TransferManager(self._client, TransferConfig(**_IN_MEMORY)) as manager:
                    yield manager
            except RetriesExceededError as error:
                raise unreachable(
                    str(error.last_exception), location, self._fields, self._connection.endpoint
                ) from error

    def put(self, location: S3Location, content: bytes) -> None:
        with self._words(location):
            self._client.put_object(Bucket=location.bucket, Key=location.key, Body=content)

    def put_new(self, location: S3Location, content: bytes) -> bool:
        with self._words(location):
            try:
                self._client.put_object(Bucket=location.bucket, Key=location.key, Body=content, IfNoneMatch="*")
            except ClientError as error:
                if _answer(error).code in EXISTS:
                    return False
                raise
        return True

    def write(self, location: S3Location, content: memoryview) -> None:
        if len(content) < _PARTS_BYTES:
            self.put(location, bytes(content))
            return
        with self._parts(location) as manager:
            manager.upload(_View(content), location.bucket, location.key).result()

    def read_into(self, location: S3Location, start: int, target: memoryview) -> None:
        content = self.read(location, start, len(target))
        if len(content) != len(target):
            raise StorageError(f"{location} ends before byte {start + len(target)}", "write the object again")
        target[:] = content

    def abort_uploads(self, prefix: S3Location) -> int:
        aborted = 0
        with self._words(prefix):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=prefix.bucket, Prefix=f"{prefix.key}/"
            )
            for upload in [upload for page in pages for upload in page.get("Uploads", ())]:
                self._client.abort_multipart_upload(
                    Bucket=prefix.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
                aborted += 1
        return aborted

    def delete(self, location: S3Location) -> None:
        with self._words(location):
            self._client.delete_object(Bucket=location.bucket, Key=location.key)

    @contextmanager
    def _words(self, location: S3Location) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError, ResponseParserError) as error:
            raise self._translated(error, location) from error

    def _translated(self, error: BaseException, location: S3Location) -> TrainerError:
        match error:
            case ClientError():
                return refusal(_answer(error), location, self._fields, self._connection.endpoint)
            case NoCredentialsError() | PartialCredentialsError():
                return missing_credentials(self._fields, str(error))
            case ParamValidationError():
                return missing_bucket(location, self._fields, self._connection.endpoint)
        return unreachable(str(error), location, self._fields, self._connection.endpoint)


def _answer(error: ClientError) -> Refusal:
    body = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return Refusal(str(body.get("Code", status)), str(body.get("Message", "")), int(status))
