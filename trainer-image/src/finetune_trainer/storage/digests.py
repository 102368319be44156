"""Content digests, and their memory: weights that a store has not changed since are not read again.

A digest of several files is that of the canonical JSON list of their names and SHA-256 values, so that it is the same
for the same files in an object store, a claim and on a hub.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from finetune_api.base import Document
from finetune_api.layout import digest_cache
from finetune_api.plan import OUTPUT, RunPlan
from finetune_api.runid import canonical_json, sha256_digest
from finetune_trainer.storage.interface import ObjectStore, StoredObject
from finetune_trainer.storage.stores import store_of

logger = logging.getLogger(__name__)

# Below this, reading the object costs no more than asking what is remembered of it.
REMEMBERED_BYTES = 8 << 20


def digest_of_files(sha256_by_name: Mapping[str, str]) -> str:
    """One digest of a set of files; values are hexadecimal SHA-256."""
    return sha256_digest(canonical_json(sorted(sha256_by_name.items())))


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def object_sha256(store: ObjectStore, stored: StoredObject) -> str:
    """Hexadecimal SHA-256 of an object's content, read now."""
    digest = hashlib.sha256()
    for chunk in store.chunks(stored.location):
        digest.update(chunk)
    return digest.hexdigest()


class _Remembered(Document):
    sha256: str
    size: int


class DigestMemory:
    """Content digests of large objects, kept in the output store by what their own store says of them."""

    def __init__(self, plan: RunPlan, environment: Mapping[str, str]) -> None:
        self._store = store_of(plan, OUTPUT, environment)
        self._destination = plan.spec.output.destination
        self._namespace = plan.job.namespace

    def sha256(self, store: ObjectStore, endpoint: str | None, stored: StoredObject) -> str:
        """Hexadecimal SHA-256 of an object: remembered when it is large and its entity tag is the same, else read."""
        if stored.size < REMEMBERED_BYTES:
            return object_sha256(store, stored)
        identity = [endpoint, str(stored.location), stored.entity_tag, stored.size]
        key = hashlib.sha256(canonical_json(identity)).hexdigest()
        place = digest_cache(self._destination, self._namespace, key)
        if self._store.stat(place):
            try:
                return _Remembered.model_validate_json(self._store.read(place)).sha256
            except ValidationError:
                logger.warning("%s is damaged: reading %s again", place, stored.location)
        found = _Remembered(sha256=object_sha256(store, stored), size=stored.size)
        self._store.put(place, found.to_json().encode())
        return found.sha256
