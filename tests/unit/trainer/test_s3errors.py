"""Words for the answers of S3-compatible stores."""

from __future__ import annotations

import pytest

from finetune_api.uris import S3Location
from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.storage.interface import StoreFields
from finetune_trainer.storage.s3errors import Refusal, missing_credentials, refusal, unreachable

FIELDS = StoreFields("spec.model.source", "spec.model.s3")
PLACE = S3Location("models", "tiny")


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("NoSuchBucket", UserError, "the bucket 'models' of spec.model.source does not exist at http://store"),
        ("InvalidBucketName", UserError, "the bucket 'models' of spec.model.source does not exist at http://store"),
        ("AccessDenied", UserError, "access denied to s3://models/tiny of spec.model.source (AccessDenied)"),
        ("403", UserError, "access denied to s3://models/tiny of spec.model.source (403)"),
        (
            "ExpiredToken",
            UserError,
            "wrong credentials for spec.model.source: the session token is not valid or no longer (ExpiredToken)",
        ),
        (
            "PermanentRedirect",
            UserError,
            "the bucket 'models' of spec.model.source is in another region (PermanentRedirect)",
        ),
        ("NoSuchKey", StorageError, "s3://models/tiny does not exist (NoSuchKey)"),
        (
            "SlowDown",
            StorageError,
            "the store at http://store failed on s3://models/tiny: SlowDown (HTTP 503) reduce your rate",
        ),
    ],
)
def test_each_answer_has_its_words(code: str, kind: type[TrainerError], message: str) -> None:
    error = refusal(Refusal(code, "reduce your rate", 503), PLACE, FIELDS, "http://store")
    assert type(error) is kind
    assert error.message == message


def test_a_store_without_an_endpoint_is_aws() -> None:
    assert refusal(Refusal("NoSuchBucket", "", 404), PLACE, FIELDS, None).message.endswith("does not exist at AWS")


def test_the_remedy_of_refused_access_names_the_secret() -> None:
    error = refusal(Refusal("AccessDenied", "", 403), PLACE, FIELDS, None)
    assert error.remedy == (
        "allow the credentials of spec.model.s3.credentialsSecretRef to read, write, list and delete there, or name "
        "other credentials"
    )


def test_silence_and_missing_credentials() -> None:
    assert unreachable("timed out", PLACE, FIELDS, "http://store").message == (
        "the store at http://store cannot be reached for s3://models/tiny of spec.model.source: timed out"
    )
    assert missing_credentials(FIELDS, "none found").message == (
        "there are no credentials for the store of spec.model.source: none found"
    )
