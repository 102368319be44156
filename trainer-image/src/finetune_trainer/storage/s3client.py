"""Clients of S3-compatible stores and their credentials, by botocore.

boto3 itself would only add to the start-up time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
)
from botocore.loaders import Loader, create_loader

from finetune_api.spec import AddressingStyle, Checksum
from finetune_api.uris import S3Location
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.interface import StoreFields
from finetune_trainer.storage.retries import Answer, Trouble, asked_seconds, delay, trouble_of
from finetune_trainer.storage.s3errors import (
    Refusal,
    StreamFailed,
    missing_bucket,
    missing_credentials,
    refusal,
    unreachable,
)

_STYLES = {AddressingStyle.PATH: "path", AddressingStyle.VIRTUAL: "virtual"}
_UNREACHABLE = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, SSLError)
# How long credentials that expire are used before the chain is asked again, which renews them in time.
_CREDENTIALS_FOR = timedelta(minutes=5)
CONNECT_SECONDS, READ_SECONDS = 5, 30


@dataclass(frozen=True)
class Connection:
    """What an S3 client is made from. Uses of a plan that share it share the client: making one takes 100 ms."""

    endpoint: str | None
    region: str | None
    style: AddressingStyle
    checksum: Checksum
    credentials: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True)
class Address:
    """Where a bucket is: the URL before the key, and whether the bucket is in its host name."""

    url: str
    virtual: bool
    region: str


class Client:
    """One client with its session."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._session = botocore.session.Session()
        loader = _loader_of(self._session.get_config_variable("data_path"))
        self._session.register_component("data_loader", loader)

    @cached_property
    def s3(self) -> Any:
        """The botocore client; ValueError when the endpoint is no URL."""
        known, endpoint = self.connection, self.connection.endpoint
        # Each upload names its checksum itself: what botocore adds on its own not all stores know.
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={"addressing_style": _STYLES.get(known.style, "path" if endpoint else "auto")},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_supported" if self.checksums else "when_required",
        )
        region = known.region or self._session.get_config_variable("region") or "us-east-1"
        client = self._session.create_client(
            "s3", endpoint_url=endpoint, region_name=region, config=config, **dict(known.credentials)
        )
        client.meta.events.register_first("needs-retry.s3", _wait_and_repeat)
        return client

    @property
    def checksums(self) -> bool:
        """Whether uploads carry CRC64NVME."""
        return self.connection.checksum is Checksum.CRC64NVME

    @cached_property
    def certificates(self) -> bytes | None:
        """Certificate authorities that were named for this session, in PEM."""
        file = self._session.get_config_variable("ca_bundle")
        return Path(file).read_bytes() if file else None

    def address(self, bucket: str) -> Address:
        """Where botocore's rules place a bucket."""
        host = urlsplit(self.s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}))
        path = host.path.removesuffix("/k")
        virtual = not path.endswith(f"/{bucket}")
        before = path if virtual else path.removesuffix(f"/{bucket}")
        return Address(f"{host.scheme}://{host.netloc}{before}", virtual, self._region(bucket))

    def _region(self, bucket: str) -> str:
        if self.connection.endpoint:
            return str(self.s3.meta.region_name)
        # botocore follows a bucket to its region by itself; others have to be told.
        return str(self.s3.head_bucket(Bucket=bucket)["BucketRegion"])

    def credentials(self) -> Mapping[str, Any]:
        """Credentials of this moment, by the same chain as the client's."""
        found = dict(self.connection.credentials)
        if found:
            return {**_named(*(found.get(name) for name in _STATIC)), "expires_at": None}
        chain = self._session.get_credentials()
        if chain is None:
            raise NoCredentialsError
        frozen = chain.get_frozen_credentials()
        return {
            **_named(frozen.access_key, frozen.secret_key, frozen.token),
            "expires_at": datetime.now(UTC) + _CREDENTIALS_FOR,
        }


_STATIC = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def _named(access: str | None, secret: str | None, token: str | None) -> dict[str, str]:
    named = {"access_key_id": access, "secret_access_key": secret, "token": token}
    return {name: value for name, value in named.items() if value}


client_of: Callable[[Connection], Client] = lru_cache(Client)
# Reads what describes S3 to botocore, which is most of the time that a client takes: once for all sessions.
_loader_of: Callable[[str | None], Loader] = lru_cache(create_loader)


def read_descriptions() -> None:
    """Reads what clients are made from, so that processes that are forked later need not. Nothing is sent."""
    # Without credentials it would look for some.
    nobody = (("aws_access_key_id", "nobody"), ("aws_secret_access_key", "nobody"))
    _ = Client(Connection(None, None, AddressingStyle.AUTO, Checksum.CRC64NVME, nobody)).s3


def _wait_and_repeat(
    attempts: int, response: tuple[Any, Any] | None, caught_exception: BaseException | None, **_: Any
) -> float | None:
    """What botocore asks after each request: seconds until it is sent again, or None."""
    if caught_exception is not None:
        if not isinstance(caught_exception, HTTPClientError):
            return None
        trouble = Trouble.UNREACHABLE if isinstance(caught_exception, _UNREACHABLE) else Trouble.BROKEN
        return delay(trouble, attempts, random.random())
    if response is None:
        return None
    http, parsed = response
    answer = Answer(http.status_code, {name.lower(): value for name, value in http.headers.items()})
    found = trouble_of(answer) if "Error" in parsed or http.status_code >= 300 else None
    return delay(found, attempts, random.random(), asked_seconds(answer)) if found else None


def answer_of(error: ClientError) -> Refusal:
    """A store's error answer as botocore has it."""
    body = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return Refusal(str(body.get("Code", status)), str(body.get("Message", "")), int(status))


@contextmanager
def refusals() -> Iterator[None]:
    """Turns a store's error answers into :class:`StreamFailed`."""
    try:
        yield
    except ClientError as error:
        raise StreamFailed(str(error), answer_of(error)) from error


def in_words(error: BaseException, location: S3Location, fields: StoreFields, endpoint: str | None) -> TrainerError:
    """What an exception of botocore means for the user."""
    match error:
        case ClientError():
            return refusal(answer_of(error), location, fields, endpoint)
        case NoCredentialsError() | PartialCredentialsError():
            return missing_credentials(fields, str(error))
        case ParamValidationError():
            return missing_bucket(location, fields, endpoint)
    return unreachable(str(error), location, fields, endpoint)
