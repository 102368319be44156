"""Checkpoints in a store: what is written can be read, and no damage goes unseen."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.plan import StoreAccess
from finetune_api.results import Checkpoint
from finetune_api.uris import S3Location
from finetune_trainer.errors import StorageError
from finetune_trainer.storage.interface import StoreFields
from finetune_trainer.storage.stores import open_store
from finetune_trainer.training.checkpoints import loading
from finetune_trainer.training.checkpoints.folders import Folders
from finetune_trainer.training.checkpoints.format import (
    COMMITTED,
    Manifest,
    Slice,
    Unsealed,
    folder_name,
    manifest_of,
    sealed,
    step_of,
)
from finetune_trainer.training.checkpoints.history import History, load_history
from finetune_trainer.training.checkpoints.kept import Kept
from finetune_trainer.training.checkpoints.loading import Damaged, Loader
from finetune_trainer.training.checkpoints.saving import Pending, Run, Saver
from finetune_trainer.training.checkpoints.slicing import Incompatible
from finetune_trainer.training.checkpoints.snapshot import Snapshot
from finetune_trainer.training.engine_state import LivePart
from finetune_trainer.training.metrics import AttemptStarted, CheckpointSaved, EvaluationMetrics, StepMetrics

RUN_ID = "r-" + "0" * 20
PREFIX = S3Location("bucket", "runs/_checkpoints")
SIZE = 10
HISTORY = History(
    [StepMetrics(1, 2, 0.5, 3.25, 1e-3, 0.1, 64, 0.25, {"tokenAccuracy": 0.5}, 1790000000.5, 1 << 30)],
    [EvaluationMetrics(0, 3.5, {}, 1790000000.0)],
    [AttemptStarted(1, 0, 1789999999.0, 2)],
    [CheckpointSaved(1, 1790000001.0)],
)


def live(rank: int = 0, world_size: int = 1, fill: float = 0.0, *, fresh: bool = False) -> LivePart:
    """One flat partition of a parameter of SIZE elements, as one rank holds it; a fresh one has no state yet."""
    width = SIZE // world_size
    weights = torch.arange(rank * width, (rank + 1) * width, dtype=torch.float32) + fill
    own = Slice(parameter="weight", start=rank * width, length=width, offset=0)
    state = {} if fresh else {"step": torch.tensor(3.0), "exp_avg": weights * 2, "count": 7}
    return LivePart(weights=weights, slices=(own,), stated=weights, state=state, options={"lr": 0.5})


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    (tmp_path / "store" / "bucket").mkdir(parents=True)
    access = StoreAccess(endpoint_url=f"file://{tmp_path}/store")
    return Folders(open_store(access, {}, StoreFields("spec.output.destination", "spec.output.s3")), PREFIX)


def save(folders: Folders, step: int, world_size: int = 1, keep: int = 10, kept: Kept | None = None) -> str:
    """Saves one checkpoint from all ranks, as their threads do."""
    told: list[Checkpoint] = []
    name = folder_name(step, "ab12")
    savers = []
    for rank in reversed(range(world_size)):
        snapshot = Snapshot(rank, pinned=False)
        random = {"cpu": torch.arange(16, dtype=torch.uint8)}
        describe = snapshot.take([live(rank, world_size)], random)
        saver = Saver(folders, Run(RUN_ID, 1, world_size, rank, keep), told.append)
        saver.begin(Pending(step, name, snapshot.content, describe, HISTORY.dump, kept if rank == 0 else None))
        savers.append(saver)
    assert [saver.wait_for_upload() or saver.wait_for_commit() for saver in savers] == [None] * world_size
    assert [(checkpoint.step, checkpoint.world_size) for checkpoint in told] == [(step, world_size)]
    return name


def read(folders: Folders, name: str, rank: int = 0, world_size: int = 1) -> LivePart:
    """Loads into a fresh partition of zeros."""
    manifest = folders.manifest(name, RUN_ID)
    assert manifest
    part = live(rank, world_size, fresh=True)
    part.weights.zero_()
    loader = Loader(folders.store, folders.place(name), manifest, rank, world_size)
    assert load_history(loader.history()) == HISTORY
    loader.load([part]).put_back([part])
    return part


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (1, 2), (2, 1), (5, 2)])
def test_state_comes_back_on_any_number_of_processes(folders: Folders, before: int, after: int) -> None:
    name = save(folders, 3, before)
    for rank in range(after):
        part, expected = read(folders, name, rank, after), live(rank, after)
        assert torch.equal(part.weights, expected.weights)
        assert torch.equal(part.state["exp_avg"], expected.state["exp_avg"])
        assert part.state["step"] == 3.0
        assert (part.state["count"], part.options["lr"]) == (7, 0.5)


def test_random_state_comes_back_on_the_same_number_only(folders: Folders) -> None:
    name = save(folders, 3)
    manifest = folders.manifest(name, RUN_ID)
    assert manifest
    same = Loader(folders.store, folders.place(name), manifest, 0, 1).load([live()])
    assert same.random["cpu"].tolist() == list(range(16))
    assert Loader(folders.store, folders.place(name), manifest, 0, 2).load([live(0, 2)]).random == {}


def test_shard_is_a_safetensors_file(folders: Folders, tmp_path: Path) -> None:
    name = save(folders, 3)
    tensors = load_file(tmp_path / "store" / "bucket" / PREFIX.key / name / "rank-00000.safetensors")
    assert sorted(tensors) == ["0.exp_avg", "0.master", "random.cpu"]
    assert torch.equal(tensors["0.master"], live().weights)


def test_state_of_one_partition_cannot_be_shared_out(folders: Folders) -> None:
    part, snapshot = live(), Snapshot(0, pinned=False)
    part.state["absmax"] = torch.ones(3)
    describe = snapshot.take([part], {})
    saver = Saver(folders, Run(RUN_ID, 1, 1, 0, 1), lambda _: None)
    name = folder_name(1, "ab")
    saver.begin(Pending(1, name, snapshot.content, describe, HISTORY.dump))
    assert saver.wait_for_commit() is None
    assert torch.equal(read(folders, name).state["absmax"], torch.ones(3))
    with pytest.raises(Incompatible, match="absmax cannot be shared out anew among 2 processes"):
        read(folders, name, 0, 2)
    # Where each process holds all of the weights, it takes over all of the state.
    manifest, whole = folders.manifest(name, RUN_ID), live(fresh=True)
    assert manifest
    Loader(folders.store, folders.place(name), manifest, 1, 2).load([whole]).put_back([whole])
    assert torch.equal(whole.state["absmax"], torch.ones(3))


def damages(content: bytes, blocks: int) -> Iterator[Callable[[Path], object]]:
    """Truncations and flipped bits at the boundaries of a file's blocks."""
    last = len(content) - 1
    edges = [edge + shift for edge in range(0, len(content) + blocks, blocks) for shift in (-1, 0)]
    places = sorted({max(0, min(last, place)) for place in edges})
    yield Path.unlink
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        for damaged in (content[:place], bytes(flipped)):
            yield partial(Path.write_bytes, data=damaged)


def test_every_damage_is_seen(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small blocks, so that a small file has many boundaries.
    for module in ("format", "loading", "saving", "slicing", "snapshot", "kept"):
        monkeypatch.setattr(f"finetune_trainer.training.checkpoints.{module}.BLOCK_BYTES", 64)
    source = tmp_path / "artifact"
    source.mkdir()
    (source / "weights").write_bytes(bytes(range(200)))
    name = save(folders, 3, 2, kept=Kept(source_after_freeze(source)))
    folder = tmp_path / "store" / "bucket" / PREFIX.key / name
    manifest = folders.manifest(name, RUN_ID)
    assert manifest
    seen = 0
    for file in manifest.files:
        path = folder / file.name
        content = path.read_bytes()
        for damage in damages(content, loading.BLOCK_BYTES):
            damage(path)
            with pytest.raises(Damaged):
                read_all(folders, name, manifest, tmp_path / "restored")
            path.write_bytes(content)
            seen += 1
    read_all(folders, name, manifest, tmp_path / "restored")
    assert (tmp_path / "restored" / "weights").read_bytes() == bytes(range(200))
    assert seen > 50


def source_after_freeze(folder: Path) -> Path:
    Kept(folder).freeze()
    return folder


def read_all(folders: Folders, name: str, manifest: Manifest, restored: Path) -> None:
    """What all ranks of a resume read together."""
    place = folders.place(name)
    for rank in range(2):
        loader = Loader(folders.store, place, manifest, rank, 2)
        loader.load([live(rank, 2)])
        loader.history()
    Kept(restored).restore(folders.store, place, manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "r-" + "1" * 20},
        {"step": 4},
        {"shards": ()},
        {"format": 2},
    ],
    ids=["another run", "another step", "missing shards", "another format"],
)
def test_manifest_that_does_not_fit_is_not_used(folders: Folders, change: dict[str, Any]) -> None:
    name = save(folders, 3)
    manifest = folders.manifest(name, RUN_ID)
    assert manifest
    folders.store.put(folders.place(name).child(COMMITTED), sealed(manifest.model_copy(update=change)))
    assert folders.manifest(name, RUN_ID) is None


def test_no_flipped_bit_and_no_cut_in_a_manifest_goes_unseen(folders: Folders) -> None:
    """Its numbers say where values lie: another one would put wrong values into the weights."""
    name = save(folders, 3)
    place = folders.place(name).child(COMMITTED)
    content = folders.store.read(place)
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        for damaged in (content[:position], bytes(flipped)):
            folders.store.put(place, damaged)
            assert folders.manifest(name, RUN_ID) is None
    folders.store.put(place, content)
    assert folders.manifest(name, RUN_ID)


@pytest.mark.parametrize("document", ["[]", "{}", '{"format": 1}'])
def test_a_sealed_document_of_another_version_is_none_of_ours(document: str) -> None:
    seal = hashlib.sha256(document.encode()).hexdigest()
    with pytest.raises(Unsealed, match="another version"):
        manifest_of(f"{document}\n{seal}".encode())


def test_only_the_newest_are_kept(folders: Folders) -> None:
    names = [save(folders, step, keep=2) for step in (1, 2, 10)]
    assert folders.committed() == [names[2], names[1]]
    assert set(folders.listed()) == set(names[1:])


def test_what_was_never_committed_does_not_count_and_is_removed(folders: Folders, tmp_path: Path) -> None:
    name = save(folders, 1)
    broken = folder_name(2, "cd")
    folders.store.put(folders.place(broken).child("rank-00000.safetensors"), b"half")
    stray = tmp_path / "store" / "bucket" / PREFIX.key / broken / ".partial-x"
    stray.write_bytes(b"quarter")
    assert folders.committed() == [name]
    folders.remove_leftovers()
    assert set(folders.listed()) == {name}
    assert not stray.exists()
    folders.remove_all()
    assert folders.listed() == {}


def test_a_folder_is_committed_once(folders: Folders) -> None:
    name = save(folders, 1)
    manifest = folders.manifest(name, RUN_ID)
    assert manifest
    with pytest.raises(StorageError, match="exists already"):
        folders.commit(name, manifest.model_copy(update={"created": datetime.now(UTC)}))


def test_rank_0_does_not_wait_for_a_part_that_will_not_come(folders: Folders) -> None:
    snapshot = Snapshot(0, pinned=False)
    describe = snapshot.take([live(0, 2)], {})
    saver = Saver(folders, Run(RUN_ID, 1, 2, 0, 1), lambda _: None)
    saver.begin(Pending(1, folder_name(1, "ab"), snapshot.content, describe, HISTORY.dump))
    assert saver.wait_for_upload() is None
    saver.give_up()
    assert isinstance(saver.wait_for_commit(), StorageError)
    assert folders.committed() == []


def test_whoever_waits_for_a_slow_store_gets_a_word_in_each_turn(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, snapshot, go = folders.store, Snapshot(0, pinned=False), threading.Event()
    write = store.write

    def slow(location: S3Location, content: memoryview) -> None:
        go.wait()
        write(location, content)

    monkeypatch.setattr(store, "write", slow)
    saver = Saver(folders, Run(RUN_ID, 1, 1, 0, 1), lambda _: None)
    assert saver.uploaded(0)
    assert saver.ended(0), "nothing was begun"
    describe = snapshot.take([live()], {})
    saver.begin(Pending(1, folder_name(1, "ab"), snapshot.content, describe, HISTORY.dump))
    assert not saver.uploaded(0.01)
    assert not saver.ended(0.01)
    go.set()
    assert saver.uploaded(60)
    assert saver.ended(60)
    assert saver.wait_for_commit() is None


@pytest.mark.parametrize(("folder", "step"), [(folder_name(12, "ab"), 12), ("step-x-1", None), ("other", None)])
def test_step_of_a_folder(folder: str, step: int | None) -> None:
    assert step_of(folder) == step


@pytest.mark.parametrize("line", ["[1]", "{}", '["step", {}]', '["other", {}]', "x"])
def test_history_of_another_version_is_refused(line: str) -> None:
    with pytest.raises(Incompatible):
        load_history(line.encode())


def resealed(folders: Folders, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes what a committed checkpoint says, as somebody can who may write to the store."""
    place = folders.place(name).child(COMMITTED)
    document = json.loads(folders.store.read(place).rpartition(b"\n")[0])
    change(document)
    content = json.dumps(document).encode()
    folders.store.put(place, content + b"\n" + hashlib.sha256(content).hexdigest().encode())


def test_a_checkpoint_of_a_billion_processes_allocates_nothing(folders: Folders) -> None:
    name = save(folders, 3)
    resealed(folders, name, lambda document: document.update(worldSize=10**12))
    assert folders.manifest(name, RUN_ID) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda shard: shard["file"].update(size=2**40, sums=["00000000"] * 2**17), "instead of 1099511627776"),
        (lambda shard: shard["parts"][0]["options"].update(params=1), "has the option params"),
        (lambda shard: shard.update(parts=[]), "it does not hold weight"),
        (lambda shard: shard["parts"][0]["slices"][0].update(parameter="other"), "it does not hold weight"),
        (lambda shard: shard["parts"][0]["slices"][0].update(start=1), "lacks elements 0 to 10"),
    ],
    ids=["larger than it is", "foreign option", "no parts", "other parameter", "elements that are missing"],
)
def test_a_checkpoint_that_was_made_to_do_harm(folders: Folders, change: Callable[[Any], object], reason: str) -> None:
    name = save(folders, 3)
    resealed(folders, name, lambda document: change(document["shards"][0]))
    manifest = folders.manifest(name, RUN_ID)
    assert manifest
    with pytest.raises((Damaged, Incompatible), match=reason):
        Loader(folders.store, folders.place(name), manifest, 0, 1).load([live(fresh=True)])


@pytest.mark.parametrize(
    "line",
    [
        ["step", {"step": "<script>", "total_steps": 2}],
        ["evaluation", {"step": 1, "loss": "<script>alert(1)</script>"}],
        ["evaluation", {"step": 1, "loss": 1.0, "metrics": {"a": [1]}}],
        ["checkpoint", {"step": 1, "time": 1.0, "more": 1}],
        ["__import__", {}],
        {"step": 1},
    ],
)
def test_metrics_that_are_none(line: Any) -> None:
    with pytest.raises(Incompatible):
        load_history(json.dumps(line).encode())


def test_metrics_that_are_nested_without_end() -> None:
    with pytest.raises(Incompatible):
        load_history(b"[" * 200_000)
