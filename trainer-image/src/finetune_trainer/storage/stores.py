"""The choice between S3 and a folder. What S3 needs is imported only where it is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from finetune_api.plan import RunPlan, StoreAccess
from finetune_trainer.errors import UserError
from finetune_trainer.storage.folder import FolderStore
from finetune_trainer.storage.interface import ObjectStore, StoreFields, fields_of, variable


def open_store(access: StoreAccess, environment: Mapping[str, str], fields: StoreFields) -> ObjectStore:
    """Opens a store; nothing is sent before the first call.

    Raises:
        UserError: the named Secret lacks a key, or its endpoint holds credentials, which messages would repeat.
    """
    endpoint = access.endpoint_url or variable(access, environment, "AWS_ENDPOINT_URL")
    if endpoint and "@" in endpoint:
        raise UserError(
            f"the endpoint in the Secret of {fields.access} holds a user or a password",
            "take both out of AWS_ENDPOINT_URL; credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    folder = _folder(endpoint)
    if folder is not None:
        return FolderStore(folder, fields)
    from finetune_trainer.storage.s3 import S3Store

    return S3Store(access, environment, fields)


def _folder(endpoint: str | None) -> Path | None:
    return Path(endpoint.removeprefix("file://")) if endpoint and endpoint.startswith("file://") else None


def import_store(access: StoreAccess, environment: Mapping[str, str]) -> None:
    """Imports what :func:`open_store` will need, so that processes that are forked later share it."""
    if _folder(access.endpoint_url or variable(access, environment, "AWS_ENDPOINT_URL")) is None:
        from finetune_trainer.storage import s3  # noqa: F401


def store_of(plan: RunPlan, use: str, environment: Mapping[str, str]) -> ObjectStore:
    """Opens the store of one use of the plan, such as ``output``, ``model`` or ``train-0``."""
    return open_store(plan.stores[use], environment, fields_of(plan, use))
