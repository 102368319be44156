"""The prepare stage as a whole: what it finds, what it refuses and what it adopts."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune_api.plan import RunPlan, StoreAccess
from finetune_api.results import EvaluationResult, Prepared
from finetune_api.uris import S3Location
from finetune_trainer.artifact.manifest import Kind
from finetune_trainer.artifact.publish import publish
from finetune_trainer.data.splits import fetch_splits
from finetune_trainer.errors import DataError, StorageError, TrainerError, UserError
from finetune_trainer.prepare import prepare
from support.object_store import CREDENTIALS
from support.paper_model import CONFIG, VOCABULARY, write_paper_model
from support.run_plans import ROWS, Place, chat, jsonl

TENTH = {"fraction": "0.1"}


def run(place: Place, **fields: Any) -> Prepared:
    return prepare(place.plan(**fields), place.environment)


def refused_by(place: Place, kind: type[TrainerError] = UserError, **fields: Any) -> TrainerError:
    """The error with which the prepare stage ends."""
    with pytest.raises(kind) as refused:
        run(place, **fields)
    assert refused.value.remedy
    return refused.value


def report_of(place: Place) -> str:
    """Where the only data report in the output is."""
    [key] = [key for key in place.keys("results") if key.endswith("/data-report.html")]
    return f"s3://{place.bucket}/{key}"


def test_rows_are_counted_and_tokenized(place: Place, tmp_path: Path) -> None:
    prepared = run(place, dataset=place.dataset(validation=TENTH))
    assert prepared.validation is not None
    assert prepared.train.rows + prepared.validation.rows == len(ROWS)
    assert prepared.steps == -(-prepared.train.rows // 8)
    assert prepared.adopted is None
    splits = fetch_splits(place.plan(prepared=prepared), place.environment, tmp_path / "fetched")
    assert splits.validation is not None
    assert len(splits.validation) == prepared.validation.rows
    assert int(splits.train.lengths.sum()) == prepared.train.tokens
    masks = [splits.train.row(index)[1] for index in range(len(splits.train))]
    assert sum(int(mask.sum()) for mask in masks) == prepared.train.loss_tokens


def test_packed_rows_make_the_steps(folder_place: Place) -> None:
    options = {"maxSequenceLength": 256, "globalBatchSize": 2, "epochs": 3}
    plain = run(folder_place, hyperparameters=options)
    packed = run(folder_place, hyperparameters=options | {"packing": True})
    assert packed.train == plain.train
    assert packed.train.packed_rows is not None
    assert packed.train.tokens / 256 <= packed.train.packed_rows < packed.train.rows / 2
    assert packed.steps == -(-packed.train.packed_rows * 3 // 2)
    assert packed.run_id != plain.run_id
    assert packed.data_uri == plain.data_uri


def test_packing_for_a_model_that_cannot_keep_rows_apart(folder_place: Place) -> None:
    config = CONFIG | {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    folder_place.put("model/config.json", json.dumps(config).encode())
    error = refused_by(folder_place, hyperparameters={"maxSequenceLength": 256, "packing": True})
    assert error.message == (
        "spec.hyperparameters.packing cannot be kept for this model: nothing proves that documents in one row do not "
        "see each other in the architecture mamba"
    )
    assert run(folder_place).steps


def test_an_image_that_cannot_compile(folder_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    error = refused_by(folder_place, hyperparameters={"compile": True})
    assert error.message == "spec.hyperparameters.compile needs g++, which the trainer's image has not"


def test_the_run_is_the_same_in_every_store(folder_place: Place, s3_place: Place, tmp_path: Path) -> None:
    for where in (folder_place, s3_place):
        for name, rows in (("a", ROWS[:10]), ("a-", ROWS[10:20]), ("a/b", ROWS[20:])):
            where.put(f"rows/{name}.jsonl", jsonl(rows))
            (tmp_path / "claim" / f"{name}.jsonl").parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "claim" / f"{name}.jsonl").write_bytes(jsonl(rows))
    plans = [
        (where, where.plan(dataset={"train": [{"source": f"s3://{where.bucket}/rows"}], "validation": TENTH}))
        for where in (folder_place, s3_place)
    ]
    claimed = {"train": [{"source": "pvc://data/claim"}], "validation": TENTH}
    plans.append((folder_place, folder_place.plan(dataset=claimed, claims={"data": str(tmp_path)})))
    results = [prepare(plan, where.environment) for where, plan in plans]
    assert len({result.run_id for result in results}) == 1
    assert len({result.data_uri.rpartition("/")[2] for result in results}) == 1


def test_preparing_again_finds_the_data_tokenized(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    first = run(place)
    keys = place.keys("results")
    with caplog.at_level(logging.INFO):
        assert run(place) == first
    assert place.keys("results") == keys
    assert f"the data is tokenized already: {first.data_uri}" in caplog.text


def test_nothing_but_the_data_is_left_in_the_output(place: Place) -> None:
    run(place)
    assert all("/_data/" in key for key in place.keys("results"))


@pytest.mark.parametrize("name", ["train-00000.safetensors", "summary.json"])
def test_damaged_data_is_tokenized_again(folder_place: Place, tmp_path: Path, name: str) -> None:
    first = run(folder_place)
    folder = S3Location("bucket", first.data_uri.removeprefix("s3://bucket/"))
    folder_place.store.put(folder.child(name), b"damage")
    assert run(folder_place) == first
    assert len(fetch_splits(folder_place.plan(prepared=first), folder_place.environment, tmp_path).train) == len(ROWS)


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"resources": {"nodes": 2}}, True),
        ({"name": "other"}, True),
        ({"hyperparameters": {"maxSequenceLength": 128}}, False),
        ({"dataset": {"train": [{"source": "s3://bucket/copy.jsonl"}]}}, True),
        ({"dataset": {"train": [{"source": "s3://bucket/other.jsonl"}]}}, False),
        ({"model": {"source": "s3://bucket/model", "name": "example/other"}}, False),
    ],
)
def test_what_the_run_id_depends_on(folder_place: Place, fields: dict[str, Any], same: bool) -> None:
    folder_place.put("copy.jsonl", jsonl(ROWS))
    folder_place.put("other.jsonl", jsonl(ROWS[1:]))
    assert (run(folder_place, **fields).run_id == run(folder_place).run_id) is same


def test_the_held_out_fraction_is_part_of_the_run_id(folder_place: Place) -> None:
    ids = {
        fraction: run(folder_place, dataset=folder_place.dataset(validation={"fraction": fraction})).run_id
        for fraction in ("0.2", "0.20", "0.3")
    }
    assert ids["0.2"] == ids["0.20"] != ids["0.3"]


def test_held_out_files_of_their_own(place: Place) -> None:
    place.put("data/held-out.jsonl", jsonl(ROWS[:4]))
    sources = {"sources": [{"source": f"s3://{place.bucket}/data/held-out.jsonl"}]}
    prepared = run(place, dataset=place.dataset(validation=sources))
    assert prepared.validation is not None
    assert (prepared.train.rows, prepared.validation.rows) == (30, 4)


# Data


def test_broken_json_on_line_17(place: Place) -> None:
    lines = jsonl(ROWS).splitlines(keepends=True)
    lines[16] = b'{"messages": [{"role": "user"\n'
    place.put("data/train.jsonl", b"".join(lines))
    error = refused_by(place, DataError)
    assert error.message == (
        "1 of 30 rows cannot be used:\n"
        f"s3://{place.bucket}/data/train.jsonl:17: not valid JSON: Expecting ',' delimiter at column 30"
    )


def test_rows_without_an_assistant_turn(folder_place: Place) -> None:
    question = {"messages": [{"role": "user", "content": "Anybody there?"}]}
    folder_place.put("data/train.jsonl", jsonl([*ROWS[:2], question, chat("a", "b"), question]))
    assert refused_by(folder_place, DataError).message == (
        "2 of 5 rows cannot be used:\n"
        "s3://bucket/data/train.jsonl:3: no assistant turn\n"
        "s3://bucket/data/train.jsonl:5: no assistant turn"
    )


def test_problems_of_every_kind_are_reported_together_and_in_order(folder_place: Place) -> None:
    long = chat("q", "word " * 400)
    folder_place.put("data/train.jsonl", jsonl([long, 7, ROWS[0]]))
    error = refused_by(folder_place, DataError, dataset=folder_place.dataset(tooLong="Refuse"))
    assert error.message.splitlines()[1:] == [
        "s3://bucket/data/train.jsonl:1: 2011 tokens, more than spec.hyperparameters.maxSequenceLength 256",
        "s3://bucket/data/train.jsonl:2: not a JSON object",
    ]


@pytest.mark.parametrize("content", [b"", b"\n \n"], ids=["no bytes", "blank lines"])
def test_an_empty_dataset(place: Place, content: bytes) -> None:
    place.put("data/train.jsonl", content)
    assert refused_by(place, DataError).message == (
        f"the dataset of spec.dataset.train is empty: s3://{place.bucket}/data/train.jsonl has no rows"
    )


def test_data_that_does_not_exist(place: Place) -> None:
    dataset = {"train": [{"source": f"s3://{place.bucket}/nothing"}]}
    assert refused_by(place, dataset=dataset).message == (
        f"s3://{place.bucket}/nothing of spec.dataset.train[0].source does not exist: there is no such file, and no "
        ".jsonl or .parquet file below it"
    )


def test_held_out_data_that_does_not_exist_in_a_claim(folder_place: Place, tmp_path: Path) -> None:
    dataset = folder_place.dataset(validation={"sources": [{"source": "pvc://data/nothing"}]})
    error = refused_by(folder_place, dataset=dataset, claims={"data": str(tmp_path)})
    assert error.message.startswith("pvc://data/nothing of spec.dataset.validation.sources[0].source does not exist")


def test_a_fraction_that_leaves_nothing(folder_place: Place) -> None:
    dataset = folder_place.dataset(validation={"fraction": "0.001"})
    error = refused_by(folder_place, dataset=dataset)
    assert error.message == "spec.dataset.validation.fraction '0.001' of 30 rows leaves nothing to hold out"


def test_a_long_row_is_cut_and_counted(folder_place: Place, tmp_path: Path) -> None:
    folder_place.put("data/train.jsonl", jsonl([chat("q", "word " * 400), ROWS[0]]))
    prepared = run(folder_place)
    assert (prepared.train.rows, prepared.train.truncated) == (2, 1)
    splits = fetch_splits(folder_place.plan(prepared=prepared), folder_place.environment, tmp_path / "fetched")
    assert splits.train.lengths.max() == 256


def test_a_long_row_is_refused(folder_place: Place) -> None:
    folder_place.put("data/train.jsonl", jsonl([ROWS[0], chat("q", "word " * 400)]))
    error = refused_by(folder_place, DataError, dataset=folder_place.dataset(tooLong="Refuse"))
    assert error.message == (
        "1 of 2 rows cannot be used:\n"
        "s3://bucket/data/train.jsonl:2: 2011 tokens, more than spec.hyperparameters.maxSequenceLength 256"
    )
    assert error.remedy == (
        "raise hyperparameters.maxSequenceLength, shorten the rows or set spec.dataset.tooLong to Truncate; the data "
        f"report is {report_of(folder_place)}"
    )


def test_a_row_whose_answer_is_cut_off_is_kept_and_told(folder_place: Place, caplog: pytest.LogCaptureFixture) -> None:
    folder_place.put("data/train.jsonl", jsonl([ROWS[0], chat("word " * 400, "cut off")]))
    with caplog.at_level(logging.INFO):
        prepared = run(folder_place)
    assert (prepared.train.rows, prepared.train.truncated) == (2, 1)
    assert "1 rows truncated" in caplog.text
    assert "0 rows refused, 1 without loss after truncation" in caplog.text


def test_data_of_which_every_answer_is_cut_off(folder_place: Place) -> None:
    folder_place.put("data/train.jsonl", jsonl([chat("word " * 400, "cut off")]))
    assert refused_by(folder_place, DataError).message == (
        "no row of spec.dataset.train has a token of the assistant among its first 256 tokens"
    )


# Model


def test_rows_longer_than_the_model_can_take(folder_place: Place, tmp_path: Path) -> None:
    folder_place.put_folder(write_paper_model(tmp_path / "short", max_position_embeddings=16), "model")
    error = refused_by(folder_place)
    assert error.message == "s3://bucket/data/train.jsonl:1: 22 tokens, but the model has 16 positions"
    assert error.remedy == "set spec.hyperparameters.maxSequenceLength to at most 16"


def test_a_tokenizer_that_is_larger_than_the_model(folder_place: Place, tmp_path: Path) -> None:
    folder_place.put_folder(write_paper_model(tmp_path / "small", vocab_size=50), "model")
    error = refused_by(folder_place)
    assert error.message.startswith("the tokenizer of spec.model.source does not fit its model: ")
    assert error.message.endswith("the vocabulary ends at 49")
    assert VOCABULARY > 50


def test_a_model_without_a_chat_template(folder_place: Place) -> None:
    folder_place.store.delete(S3Location("bucket", "model/chat_template.jinja"))
    assert refused_by(folder_place).message == "the model of spec.model.source has no chat template"


# Storage


def test_an_output_bucket_that_does_not_exist(place: Place) -> None:
    error = refused_by(place, output={"destination": "s3://no-such-bucket/results"})
    assert error.message == (
        f"the bucket 'no-such-bucket' of spec.output.destination does not exist at {place.endpoint}"
    )


def test_a_data_bucket_that_does_not_exist(place: Place) -> None:
    error = refused_by(place, dataset={"train": [{"source": "s3://no-such-bucket/rows.jsonl"}]})
    assert error.message == (
        f"the bucket 'no-such-bucket' of spec.dataset.train[0].source does not exist at {place.endpoint}"
    )


@pytest.mark.parametrize(
    ("use", "field"),
    [
        ("output", "spec.output.destination"),
        ("model", "spec.model.source"),
        ("train-0", "spec.dataset.train[0].source"),
    ],
)
def test_wrong_credentials_name_the_store_that_refused_them(s3_place: Place, use: str, field: str) -> None:
    wrong = StoreAccess(endpoint_url=s3_place.endpoint, environment_prefix="WRONG_")
    plan = s3_place.plan()
    plan = plan.model_copy(update={"stores": plan.stores | {use: wrong}})
    wrong_keys = {f"WRONG_{name}": value[::-1] for name, value in CREDENTIALS.items()}
    with pytest.raises(UserError) as refused:
        prepare(plan, s3_place.environment | wrong_keys)
    assert refused.value.message.startswith(f"wrong credentials for {field}: ")


def test_a_store_that_does_not_answer(folder_place: Place) -> None:
    plan = folder_place.plan()
    silent = StoreAccess(endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StorageError, match="cannot be reached"):
        prepare(plan.model_copy(update={"stores": plan.stores | {"output": silent}}), CREDENTIALS)


# Adoption


def published(place: Place, tmp_path: Path) -> tuple[RunPlan, Prepared]:
    """Prepares a run and publishes a small adapter as its result."""
    prepared = run(place)
    folder = tmp_path / "artifact"
    folder.mkdir()
    config = {"base_model_name_or_path": "example/tiny", "r": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    names = (f"base_model.model.model.layers.{layer}.self_attn.q_proj" for layer in range(2))
    tensors = {}
    for name in names:
        tensors[f"{name}.lora_A.weight"] = np.ones((2, 8), dtype=np.float32)
        tensors[f"{name}.lora_B.weight"] = np.ones((8, 2), dtype=np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    plan = place.plan(prepared=prepared)
    evaluation = EvaluationResult(loss_before="2.5", loss_after="1.5")
    model = write_paper_model(tmp_path / "base")
    publish(plan, place.environment, folder, Kind.ADAPTER, model, evaluation, {"versions": {}})
    return plan, prepared


def test_a_published_run_is_adopted(place: Place, tmp_path: Path) -> None:
    _, prepared = published(place, tmp_path)
    again = run(place)
    assert again.adopted is not None
    assert again.adopted.uri == f"s3://{place.bucket}/results/team-a/haiku/{prepared.run_id}"
    assert (again.adopted.kind, again.adopted.files) == ("adapter", 2)
    assert again.adopted_evaluation == EvaluationResult(loss_before="2.5", loss_after="1.5")
    assert again.model_copy(update={"adopted": None, "adopted_evaluation": None}) == prepared


@pytest.mark.parametrize("keep", [False, True])
def test_adoption_removes_the_checkpoints_that_a_killed_rank_left(place: Place, tmp_path: Path, keep: bool) -> None:
    _, prepared = published(place, tmp_path)
    left = f"results/team-a/haiku/_checkpoints/{prepared.run_id}/step-000000004-ab12cd34"
    others = "results/team-a/haiku/_checkpoints/r-00000000000000000000/step-000000004-ab12cd34"
    for name in ("COMMITTED", "rank-00000.safetensors"):
        place.put(f"{left}/{name}", b"left")
        place.put(f"{others}/{name}", b"another run's")
    assert run(place, checkpoint={"keepAfterSuccess": keep}).adopted
    assert len(place.keys(left)) == (2 if keep else 0)
    assert len(place.keys(others)) == 2


def test_a_run_of_another_job_is_not_adopted(folder_place: Place, tmp_path: Path) -> None:
    published(folder_place, tmp_path)
    assert run(folder_place, name="other").adopted is None


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("adapter_model.safetensors", b"damage", "adapter_model.safetensors has another content"),
        ("adapter_config.json", None, "adapter_config.json is missing"),
        ("manifest.json", b"{}", "its manifest is not readable"),
    ],
)
def test_a_damaged_run_is_trained_again(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes | None, why: str
) -> None:
    _, prepared = published(place, tmp_path)
    location = S3Location(place.bucket, f"results/team-a/haiku/{prepared.run_id}/{name}")
    if content is None:
        place.store.delete(location)
    else:
        place.store.put(location, content)
    assert run(place).adopted is None
    assert f"is published but not adopted, so the run is trained again: {why}" in caplog.text


def test_a_run_without_a_manifest_is_not_adopted(folder_place: Place, tmp_path: Path) -> None:
    _, prepared = published(folder_place, tmp_path)
    folder_place.store.delete(S3Location("bucket", f"results/team-a/haiku/{prepared.run_id}/manifest.json"))
    assert run(folder_place).adopted is None


def test_the_manifest_of_another_run_is_not_adopted(folder_place: Place, tmp_path: Path) -> None:
    _, prepared = published(folder_place, tmp_path)
    location = S3Location("bucket", f"results/team-a/haiku/{prepared.run_id}/manifest.json")
    manifest = json.loads(folder_place.store.read(location))
    folder_place.store.put(location, json.dumps(manifest | {"runID": "r-" + "0" * 20}).encode())
    assert run(folder_place).adopted is None
