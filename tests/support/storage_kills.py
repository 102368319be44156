"""Publishing and saving that are killed at seeded instants, again and again, and what a reader of the store sees.

Run by tests/faults/test_storage.py; prints one JSON record. Each try is forked from this process, which has imported
all it needs and never speaks to the store but by botocore: what it sees does not depend on the code that is tested.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import botocore.session
import torch

from finetune_api.uris import S3Location
from finetune_trainer.artifact.manifest import Kind
from finetune_trainer.artifact.publish import publish
from finetune_trainer.storage.checksums import block_sums
from finetune_trainer.training.checkpoints.folders import Folders
from finetune_trainer.training.checkpoints.format import BLOCK_BYTES, COMMITTED, Slice, folder_name, manifest_of
from finetune_trainer.training.checkpoints.saving import Pending, Run, Saver
from finetune_trainer.training.checkpoints.snapshot import Snapshot
from finetune_trainer.training.engine_state import LivePart
from support.artifacts import EVALUATION, RECORD, prepared_of, write_adapter
from support.object_store import CREDENTIALS
from support.paper_model import write_paper_model
from support.run_plans import Place

# Some parts of an upload, so that kills hit between them.
LARGE = 3 * (8 << 20) + 1


@dataclass
class Reader:
    """What anybody who looks at the bucket sees."""

    place: Place

    def __post_init__(self) -> None:
        keys = {name.lower(): value for name, value in CREDENTIALS.items()}
        session = botocore.session.Session()
        self._client: Any = session.create_client(
            "s3", endpoint_url=self.place.endpoint, region_name="us-east-1", **keys
        )

    def names(self, prefix: str) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self.place.bucket, Prefix=prefix).get("Contents", ())
        return [entry["Key"] for entry in found]

    def content(self, key: str) -> bytes:
        found: bytes = self._client.get_object(Bucket=self.place.bucket, Key=key)["Body"].read()
        return found

    def uploads(self, prefix: str) -> int:
        found = self._client.list_multipart_uploads(Bucket=self.place.bucket, Prefix=prefix)
        return len(found.get("Uploads", ()))


class Publishing:
    """One run that is published with other content after some tries: they may go on from each other's uploads."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place, self._folder = place, folder
        self._base = write_paper_model(folder / "model")
        self.prefix = f"results/team-a/haiku/{prepared_of(place).run_id}/"

    def run(self, number: int) -> None:
        files = write_adapter(self._folder / f"artifact-{number}")
        (files / "metrics.jsonl").write_bytes(random.Random(number // 3).randbytes(LARGE))
        plan = self._place.plan(prepared=prepared_of(self._place))
        publish(plan, self._place.environment, files, Kind.ADAPTER, self._base, EVALUATION, RECORD)

    def whole(self, reader: Reader) -> int:
        """How many artifacts are published; each must be whole."""
        names = reader.names(self.prefix)
        if f"{self.prefix}manifest.json" not in names:
            return 0
        manifest = json.loads(reader.content(f"{self.prefix}manifest.json"))
        for file in manifest["files"]:
            digest = hashlib.sha256(reader.content(self.prefix + file["name"])).hexdigest()
            assert digest == file["sha256"], f"{file['name']} is not what the manifest says"
        return 1


class Saving:
    """One run that saves a step each time, as an attempt that begins does."""

    prefix = "results/team-a/haiku/_checkpoints/r-00000000000000000000/"

    def __init__(self, place: Place, folder: Path) -> None:
        self._place = place

    def run(self, number: int) -> None:
        folders = Folders(self._place.store, S3Location(self._place.bucket, self.prefix.rstrip("/")))
        folders.remove_leftovers()
        weights = torch.full((LARGE // 4,), float(number))
        own = Slice(parameter="weight", start=0, length=len(weights), offset=0)
        part = LivePart(weights=weights, slices=(own,), stated=weights, state={}, options={})
        snapshot = Snapshot(0, pinned=False)
        describe = snapshot.take([part], {})
        saver = Saver(folders, Run("r-00000000000000000000", 1, 1, 0, 2), lambda _: None)
        saver.begin(Pending(number, folder_name(number, f"{number:08x}"), snapshot.content, describe, lambda: b""))
        assert saver.wait_for_commit() is None

    def whole(self, reader: Reader) -> int:
        """How many checkpoints are committed; each must be whole."""
        committed = [name for name in reader.names(self.prefix) if name.endswith(f"/{COMMITTED}")]
        for name in committed:
            manifest = manifest_of(reader.content(name))
            for file in manifest.files:
                content = reader.content(name.removesuffix(COMMITTED) + file.name)
                assert block_sums(memoryview(content), BLOCK_BYTES) == file.sums, f"{file.name} of {name} is damaged"
        return len(committed)


def forked(work: Callable[[], object], seconds: float | None) -> bool:
    """Does something in a process of its own; True when it came to its end before it was killed."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            print(error, flush=True)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    ended = os.WIFEXITED(status)
    assert not ended or os.WEXITSTATUS(status) == 0, "an undisturbed try failed"
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["publish", "checkpoint"])
    for name in ("--seed", "--count"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--endpoint", "--bucket"):
        parser.add_argument(name, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    place = Place(options.endpoint, options.bucket, options.folder / "workspace", CREDENTIALS)
    scene = {"publish": Publishing, "checkpoint": Saving}[options.what](place, options.folder)
    reader, dice = Reader(place), random.Random(options.seed)
    started = time.monotonic()
    forked(partial(scene.run, 1), None)
    seconds = time.monotonic() - started
    kills = uploads = 0
    number = 2
    while kills < options.count:
        kills += not forked(partial(scene.run, number), dice.random() * seconds)
        uploads += reader.uploads(scene.prefix) > 0
        scene.whole(reader)
        number += 1
    forked(partial(scene.run, number), None)
    print(
        json.dumps(
            {
                "kills": kills,
                "leftUploads": uploads,
                "uploadsAtTheEnd": reader.uploads(scene.prefix),
                "wholeAtTheEnd": scene.whole(reader),
            }
        )
    )


if __name__ == "__main__":
    main()
