"""Words for what an S3-compatible store answers, and for its silence. Pure: codes in, :class:`TrainerError` out.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and HTTP numbers where an answer has no
body.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.uris import S3Location
from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.storage.interface import StoreFields

NOT_FOUND = frozenset({"404", "NoSuchKey"})
# Answers to a conditional write: there is such an object, or another writer is about to make it.
EXISTS = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
_NO_BUCKET = frozenset({"NoSuchBucket", "InvalidBucketName"})
_UNKNOWN_KEY = frozenset({"InvalidAccessKeyId", "InvalidClientTokenId"})
_EXPIRED = frozenset({"InvalidToken", "ExpiredToken", "TokenRefreshRequired"})
_DENIED = frozenset({"401", "403", "AccessDenied", "AllAccessDisabled", "AccountProblem", "Unauthorized"})
_WRONG_REGION = frozenset(
    {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)


@dataclass(frozen=True)
class Refusal:
    """A store's error answer."""

    code: str
    message: str
    status: int


class StreamFailed(Exception):
    """A transfer failed for good. ``refusal`` is what the store answered, if it did."""

    def __init__(self, reason: str, refusal: Refusal | None) -> None:
        super().__init__(reason)
        self.refusal = refusal


def missing_bucket(location: S3Location, fields: StoreFields, endpoint: str | None) -> UserError:
    """The bucket of a field does not exist."""
    return UserError(
        f"the bucket {location.bucket!r} of {fields.location} does not exist at {endpoint or 'AWS'}",
        f"create the bucket or correct {fields.location}; for a bucket elsewhere correct {fields.access}.endpointURL",
    )


def missing_credentials(fields: StoreFields, what: str) -> UserError:
    """No usable credentials were found."""
    return UserError(
        f"there are no credentials for the store of {fields.location}: {what}",
        f"name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in {fields.access}.credentialsSecretRef, or "
        "give the pod's service account access",
    )


def refusal(answer: Refusal, location: S3Location, fields: StoreFields, endpoint: str | None) -> TrainerError:
    """What an error answer means for the user."""
    code, where, secret = answer.code, f"{endpoint or 'AWS'}", f"{fields.access}.credentialsSecretRef"
    if code in _NO_BUCKET:
        return missing_bucket(location, fields, endpoint)
    if code in _UNKNOWN_KEY:
        return UserError(
            f"wrong credentials for {fields.location}: {where} does not know the access key ({code})",
            f"correct AWS_ACCESS_KEY_ID in the Secret of {secret}",
        )
    if code == "SignatureDoesNotMatch":
        return UserError(
            f"wrong credentials for {fields.location}: the secret key does not belong to the access key ({code})",
            f"correct AWS_SECRET_ACCESS_KEY in the Secret of {secret}",
        )
    if code in _EXPIRED:
        return UserError(
            f"wrong credentials for {fields.location}: the session token is not valid or no longer ({code})",
            f"renew AWS_SESSION_TOKEN in the Secret of {secret}",
        )
    if code in _DENIED:
        return UserError(
            f"access denied to {location} of {fields.location} ({code})",
            f"allow the credentials of {secret} to read, write, list and delete there, or name other credentials",
        )
    if code in _WRONG_REGION:
        return UserError(
            f"the bucket {location.bucket!r} of {fields.location} is in another region ({code})",
            f"set {fields.access}.region to the region of the bucket",
        )
    if code in NOT_FOUND:
        remedy = f"check {fields.location} and {fields.access}.endpointURL"
        return StorageError(f"{location} does not exist ({code})", remedy)
    return StorageError(
        f"the store at {where} failed on {location}: {code} (HTTP {answer.status}) {answer.message}".rstrip(),
        "try again when the store is healthy; its own log says more",
    )


def unreachable(reason: str, location: S3Location, fields: StoreFields, endpoint: str | None) -> StorageError:
    """The store did not answer, or not as S3 does."""
    return StorageError(
        f"the store at {endpoint or 'AWS'} cannot be reached for {location} of {fields.location}: {reason}",
        f"check {fields.access}.endpointURL, the network policy and that the store runs",
    )
