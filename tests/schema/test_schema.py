"""What the API server itself says to manifests: every refusal with its own words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import yaml

from support.broken_defaults import BROKEN
from support.builders import manifest as _manifest
from support.builders import merged
from support.clusters import PROJECT, Cluster

Object = dict[str, Any]
DRY = "--dry-run=server"


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of this module's own."""
    name = f"schema-{uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def _refusal(cluster: Cluster, document: Object | str) -> str:
    return " ".join(cluster.refusal(document, DRY).split())


# Changes to the smallest manifest, and what the refusal must contain.
REFUSED: dict[str, tuple[Object, str]] = {
    "two intervals of checkpoints": (
        {"checkpoint": {"everySteps": 10, "everySeconds": 60}},
        "checkpoint.everySteps and checkpoint.everySeconds exclude each other; remove one of them",
    ),
    "no model": ({"model": None}, "spec.model: Required value"),
    "no source": ({"model": {"source": None}}, "spec.model.source: Required value"),
    "no dataset": ({"dataset": None}, "spec.dataset: Required value"),
    "no training files": ({"dataset": {"train": []}}, "spec.dataset.train in body should have at least 1 items"),
    "model of an unknown scheme": ({"model": {"source": "gs://bucket/x"}}, "spec.model.source in body should match"),
    "data of an unknown scheme": (
        {"dataset": {"train": [{"source": "gs://a/b"}]}},
        "spec.dataset.train[0].source in body should match",
    ),
    "data of the web without a checksum": (
        {"dataset": {"train": [{"source": "https://host/rows.jsonl"}]}},
        "spec.dataset.train[0]: Invalid value: an https:// source needs sha256, the checksum of its file, and no other "
        "source takes one",
    ),
    "checksum of a bucket": (
        {"dataset": {"train": [{"source": "s3://data/rows", "sha256": "0" * 64}]}},
        "an https:// source needs sha256, the checksum of its file, and no other source takes one",
    ),
    "pattern on the web": (
        {"dataset": {"train": [{"source": "https://host/rows.jsonl", "sha256": "0" * 64, "files": "*"}]}},
        "an https:// source is one file; remove files",
    ),
    "revision of a bucket": (
        {"dataset": {"train": [{"source": "s3://data/rows", "revision": "main"}]}},
        "revision applies to an hf:// source only; remove revision or use hf://org/name",
    ),
    "columns of another format": (
        {"dataset": {"train": [{"source": "s3://data/rows", "format": "completion", "fields": {"messages": "m"}}]}},
        "fields of format completion are text; remove the others or set format",
    ),
    "columns of no chat": (
        {"dataset": {"train": [{"source": "s3://data/rows", "fields": {"prompt": "p"}}]}},
        "fields of format chat are messages, role, content, tools; remove the others or set format",
    ),
    "format that is none": (
        {"dataset": {"train": [{"source": "s3://data/rows", "format": "alpaca"}]}},
        'Unsupported value: "alpaca"',
    ),
    "preferences for sft": (
        {"dataset": {"train": [{"source": "s3://data/rows", "format": "preference"}]}, "method": {"objective": "sft"}},
        "objective sft learns from rows of the format chat or instruction or completion; set format of every source of "
        "spec.dataset, or spec.method.objective",
    ),
    "held-out preferences for sft": (
        {
            "dataset": {"validation": {"sources": [{"source": "s3://data/rows", "format": "unpaired"}]}},
            "method": {"objective": "sft"},
        },
        "objective sft learns from rows of the format chat or instruction or completion",
    ),
    "weight of held-out rows": (
        {"dataset": {"validation": {"sources": [{"source": "s3://data/rows", "weight": "2"}]}}},
        "held-out rows are evaluated once each; remove weight from spec.dataset.validation.sources",
    ),
    "weight of nothing": (
        {"dataset": {"train": [{"source": "s3://data/rows", "weight": "0.0"}]}},
        "spec.dataset.train[0].weight in body should match",
    ),
    "limit of no rows": (
        {"dataset": {"train": [{"source": "s3://data/rows", "limit": 0}]}},
        "spec.dataset.train[0].limit in body should be greater than or equal to 1",
    ),
    "share of truncated rows above 1": (
        {"dataset": {"checks": {"maxTruncatedFraction": "1.1"}}},
        "maxTruncatedFraction in body should match",
    ),
    "data's hub without data on it": (
        {"dataset": {"huggingFace": {}}},
        "no source is on a hub; remove spec.dataset.huggingFace or use hf://org/name",
    ),
    "template that renders nothing": (
        {"dataset": {"chatTemplate": "x", "train": [{"source": "s3://data/rows", "format": "completion"}]}},
        "no source is rendered by a chat template; remove spec.dataset.chatTemplate or set format",
    ),
    "destination that is a claim": (
        {"output": {"destination": "pvc://c/x"}},
        "spec.output.destination in body should match",
    ),
    "ZeRO stage 4": (
        {"deepspeed": {"zeroStage": 4}},
        "spec.deepspeed.zeroStage: Invalid value: 4: spec.deepspeed.zeroStage in body should be less than or equal "
        "to 3",
    ),
    "two tunings at once": (
        {"method": {"tuning": "full", "lora": {"rank": 4}}},
        "spec.method: Invalid value: method.lora is set but method.tuning is not lora: a job has one tuning; "
        "remove spec.method.lora or set spec.method.tuning to lora or qlora",
    ),
    "bf16 with stage 0": (
        {"deepspeed": {"zeroStage": 0}, "hyperparameters": {"precision": "bf16"}},
        "spec: Invalid value: bf16 with ZeRO stage 0 gives wrong losses in DeepSpeed; set spec.deepspeed.zeroStage to "
        "1 or higher or spec.hyperparameters.precision to fp32",
    ),
    "batch that does not divide": (
        {"hyperparameters": {"globalBatchSize": 8}, "resources": {"nodes": 3}},
        "spec: Invalid value: spec.hyperparameters.globalBatchSize must be a multiple of "
        "spec.deepspeed.microBatchSize times the number of processes (nodes times GPUs or processes per node)",
    ),
    "batch that does not divide by processes": (
        {"hyperparameters": {"globalBatchSize": 8}, "resources": {"processesPerNode": 3}},
        "spec.hyperparameters.globalBatchSize must be a multiple",
    ),
    "batch that does not divide by GPUs": (
        {"hyperparameters": {"globalBatchSize": 8}, "resources": {"gpusPerNode": 3}},
        "spec.hyperparameters.globalBatchSize must be a multiple",
    ),
    "epochs and maxSteps": (
        {"hyperparameters": {"epochs": 1, "maxSteps": 10}},
        "spec.hyperparameters: Invalid value: set only one of spec.hyperparameters.epochs and "
        "spec.hyperparameters.maxSteps",
    ),
    "fraction and sources": (
        {"dataset": {"validation": {"fraction": "0.1", "sources": [{"source": "s3://rows/v"}]}}},
        "spec.dataset.validation: Invalid value: set exactly one of spec.dataset.validation.fraction and "
        "spec.dataset.validation.sources",
    ),
    "neither fraction nor sources": ({"dataset": {"validation": {}}}, "set exactly one of spec.dataset.validation"),
    "revision on s3": (
        {"model": {"revision": "main"}},
        "spec.model: Invalid value: revision applies to an hf:// source only; remove spec.model.revision or use "
        "hf://org/name",
    ),
    "hub access on s3": ({"model": {"huggingFace": {}}}, "huggingFace applies to an hf:// source only; remove"),
    "s3 access on the hub": (
        {"model": {"source": "hf://a/b", "s3": {}}},
        "s3 applies to an s3:// or job:// source only; remove spec.model.s3 or use s3://bucket/prefix",
    ),
    "s3 access on a claim": (
        {"dataset": {"train": [{"source": "pvc://c/x", "s3": {}}]}},
        "spec.dataset.train[0]: Invalid value: s3 applies to an s3:// source only; remove s3 or use s3://bucket/path",
    ),
    "processesPerNode with GPUs": (
        {"resources": {"gpusPerNode": 8, "processesPerNode": 8}},
        "spec.resources: Invalid value: with GPUs there is one process per GPU; remove spec.resources.processesPerNode",
    ),
    "Adafactor on flat pieces": (
        {"hyperparameters": {"optimizer": "adafactor", "precision": "fp32"}, "deepspeed": {"zeroStage": 2}},
        "spec: Invalid value: adafactor factors the second moment of whole weight matrices, which ZeRO cuts into flat "
        "pieces; set spec.deepspeed.zeroStage to 0 and spec.hyperparameters.precision to fp32, or "
        "spec.hyperparameters.optimizer to adamw8bit",
    ),
    "betas of Adafactor": (
        {
            "hyperparameters": {"optimizer": "adafactor", "precision": "fp32", "beta2": "0.99"},
            "deepspeed": {"zeroStage": 0},
        },
        "spec.hyperparameters: Invalid value: beta1, beta2 and epsilon of spec.hyperparameters belong to AdamW; remove "
        "them or set spec.hyperparameters.optimizer to adamw",
    ),
    "decay of another schedule": (
        {"hyperparameters": {"schedule": "cosine", "decaySteps": 5}},
        "spec.hyperparameters: Invalid value: spec.hyperparameters.decaySteps belongs to schedule wsd; remove it or "
        "set spec.hyperparameters.schedule to wsd",
    ),
    "negative learning rate": ({"hyperparameters": {"learningRate": "-1"}}, "learningRate in body should match"),
    "fraction above 1": ({"dataset": {"validation": {"fraction": "1.5"}}}, "fraction in body should match"),
    "unknown schedule": (
        {"hyperparameters": {"schedule": "step"}},
        'Unsupported value: "step": supported values: "constant", "linear", "cosine", "wsd"',
    ),
    "no nodes": ({"resources": {"nodes": 0}}, "spec.resources.nodes in body should be greater than or equal to 1"),
    "too many GPUs": ({"resources": {"gpusPerNode": 17}}, "gpusPerNode in body should be less than or equal to 16"),
    "negative CPU": ({"resources": {"cpu": -1}}, "spec.resources.cpu in body should be greater than or equal to 0"),
    "CPU that is no quantity": ({"resources": {"cpu": "many"}}, "spec.resources.cpu in body should match"),
    "memory of absurd length": ({"resources": {"memory": "1" * 33}}, "Too long: may not be more than 32 bytes"),
    "Secret's name": (
        {"output": {"s3": {"credentialsSecretRef": {"name": "Not_A_Name"}}}},
        "credentialsSecretRef.name in body should match",
    ),
    "endpoint without a scheme": (
        {"output": {"s3": {"endpointURL": "store:9000"}}},
        "endpointURL in body should match",
    ),
    "negative backoffLimit": ({"backoffLimit": -1}, "spec.backoffLimit in body should be greater than or equal to 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(cluster: Cluster, namespace: str, case: str) -> None:
    changes, words = REFUSED[case]
    assert words in _refusal(cluster, _manifest(namespace=namespace, **changes))


@pytest.mark.parametrize(
    ("path", "unknown"),
    [
        ({"spec": {"learningRate": "1"}}, "spec.learningRate"),
        ({"spec": {"hyperparameters": {"learning_rate": "1"}}}, "spec.hyperparameters.learning_rate"),
        ({"spec": {"dataset": {"train": [{"source": "s3://rows/x", "url": "y"}]}}}, "spec.dataset.train[0].url"),
        ({"spec": {"ttlSeconds": 1}}, "spec.ttlSeconds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unknown_field_is_named(cluster: Cluster, namespace: str, path: Object, unknown: str) -> None:
    document = merged(_manifest(namespace=namespace), path)
    # Server-side apply checks fields against the published types; create, strictly by field validation.
    result = cluster.run("create", DRY, "--validate=strict", "-f", "-", stdin=yaml.safe_dump(document))
    assert result.returncode != 0
    assert f'strict decoding error: unknown field "{unknown}"' in result.stderr
    field = re.escape(unknown.rpartition(".")[2])
    assert re.search(
        rf'(unknown field "{re.escape(unknown)}"|\.{field}: field not declared in schema)', _refusal(cluster, document)
    )


@pytest.mark.parametrize(("text", "kind"), [("2e-4", "number"), ("0.1", "number"), ("1", "integer")])
def test_unquoted_decimal_is_refused_with_its_type(cluster: Cluster, namespace: str, text: str, kind: str) -> None:
    """A float would be rounded by some client on the way; the field's help says to quote it."""
    written = yaml.safe_dump(_manifest(namespace=namespace, hyperparameters={"learningRate": "HERE"}))
    created = cluster.run("create", DRY, "-f", "-", stdin=written.replace("HERE", text)).stderr
    field = "spec.hyperparameters.learningRate"
    assert f'{field}: Invalid value: "{kind}": {field} in body must be of type string: "{kind}"' in created
    assert f".{field}: expected string" in _refusal(cluster, written.replace("HERE", text))


@pytest.mark.parametrize("name", ["a", "a" * 48, "job-1"])
def test_name_is_accepted(cluster: Cluster, namespace: str, name: str) -> None:
    assert cluster.apply(_manifest(name, namespace), DRY)["metadata"]["name"] == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a" * 49, "metadata.name must be at most 48 characters, since names of pods are made from it"),
        ("v1.2", "metadata.name must be a DNS label: lower-case letters, digits and '-', starting with a letter"),
        ("1job", "metadata.name must be a DNS label: lower-case letters, digits and '-', starting with a letter"),
    ],
)
def test_name_is_refused(cluster: Cluster, namespace: str, name: str, words: str) -> None:
    assert words in _refusal(cluster, _manifest(name, namespace))


ACCEPTED: dict[str, Object] = {
    "the smallest": {},
    "hub model with everything": {
        "model": {
            "source": "hf://org/name",
            "revision": "main",
            "huggingFace": {"cacheClaim": "cache", "offline": True, "tokenSecretRef": {"name": "hub"}},
        }
    },
    "claims": {"model": {"source": "pvc://c"}, "dataset": {"train": [{"source": "pvc://c/x"}]}},
    "fp32 with stage 0": {"hyperparameters": {"precision": "fp32"}, "deepspeed": {"zeroStage": 0}},
    "GPUs": {
        "resources": {"nodes": 2, "gpusPerNode": 8, "cpu": 64, "memory": "512Gi", "nodeSelector": {"a": "b"}},
        "hyperparameters": {"globalBatchSize": 32},
        "deepspeed": {"zeroStage": 3, "microBatchSize": 2},
    },
    "held-out sources": {"dataset": {"validation": {"sources": [{"source": "s3://rows/v"}]}}},
    "packing": {"hyperparameters": {"packing": True}},
    "a schedule that decays at the end": {"hyperparameters": {"schedule": "wsd", "decaySteps": 10}},
    "8-bit AdamW": {"hyperparameters": {"optimizer": "adamw8bit", "beta2": "0.95"}},
    "Adafactor without ZeRO": {
        "hyperparameters": {"optimizer": "adafactor", "precision": "fp32"},
        "deepspeed": {"zeroStage": 0},
    },
    "evaluation": {"dataset": {"validation": {"fraction": "0.1"}}, "evaluation": {"everySteps": 1}},
    "decimals in every form": {"hyperparameters": {"learningRate": "1E-5", "weightDecay": "0.01", "maxGradNorm": "0"}},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(cluster: Cluster, namespace: str, case: str) -> None:
    assert cluster.apply(_manifest(namespace=namespace, **ACCEPTED[case]), DRY)["kind"] == "FineTuneJob"


@pytest.mark.parametrize("changes", [{}, {"method": {"lora": {}}, "output": None}], ids=["smallest", "empty groups"])
def test_a_manifest_is_stored_as_it_was_written(cluster: Cluster, namespace: str, changes: Object) -> None:
    """What it leaves out may come from a profile, and Git and the cluster hold the same."""
    document = _manifest(namespace=namespace, **changes)
    assert cluster.apply(document, DRY)["spec"] == document["spec"]


@pytest.mark.parametrize("case", ["bf16 with stage 0", "preferences for sft", "no output"])
def test_what_a_profile_may_mend_is_left_to_the_operator(cluster: Cluster, namespace: str, case: str) -> None:
    assert cluster.apply(_manifest(namespace=namespace, **BROKEN[case][0]), DRY)["kind"] == "FineTuneJob"


# One change in every group that defines the run.
IMMUTABLE: dict[str, Object] = {
    "model": {"name": "org/other"},
    "dataset": {"tooLong": "Refuse"},
    "method": {"tuning": "full"},
    "hyperparameters": {"seed": 7},
    "resources": {"cpu": "2"},
    "deepspeed": {"zeroStage": 3},
    "evaluation": {"everySteps": 5},
    "checkpoint": {"keep": 5},
    "output": {"destination": "s3://elsewhere/x"},
}


@pytest.fixture(scope="module")
def existing(cluster: Cluster, namespace: str) -> Object:
    """A job that is there already, with a held-out split, which says something of every group but one."""
    written = {"method": {"tuning": "lora"}, "hyperparameters": {"seed": 42}, "resources": {"cpu": "1"}}
    written |= {"deepspeed": {"zeroStage": 2}, "evaluation": {"publish": "Last"}}
    # An operator that other tests may have on this cluster leaves it alone.
    written |= {"managedBy": "example.com/nobody"}
    document = _manifest("existing", namespace, dataset={"validation": {"fraction": "0.1"}}, **written)
    cluster.apply(document)
    return document


@pytest.mark.parametrize("group", IMMUTABLE)
def test_changed_group_is_refused(cluster: Cluster, existing: Object, group: str) -> None:
    words = f"spec.{group} is immutable, since it defines the run; create a FineTuneJob of another name"
    assert words in _refusal(cluster, merged(existing, {"spec": {group: IMMUTABLE[group]}}))


def test_a_group_that_was_written_may_not_go(cluster: Cluster, existing: Object) -> None:
    assert "spec.evaluation is immutable" in _refusal(cluster, merged(existing, {"spec": {"evaluation": None}}))


@pytest.mark.parametrize(
    "changes", [{"suspend": True}, {"backoffLimit": 0}, {"suspend": True, "backoffLimit": 9}], ids=str
)
def test_run_policy_may_change(cluster: Cluster, existing: Object, changes: Object) -> None:
    spec = cluster.apply(merged(existing, {"spec": changes}), DRY)["spec"]
    assert changes.items() <= spec.items()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queueName": "b", "suspend": True}, None),
        ({"queueName": None, "suspend": True}, None),
        ({"queueName": "b"}, "spec.queueName changes only while the job is suspended"),
        ({"queueName": None}, "spec.queueName changes only while the job is suspended"),
        ({"managedBy": "example.com/other"}, "spec.managedBy is immutable"),
        ({"managedBy": None, "suspend": True}, "spec.managedBy is immutable"),
    ],
    ids=str,
)
def test_queue_and_controller(cluster: Cluster, namespace: str, changes: Object, words: str | None) -> None:
    queued = _manifest("in-a-queue", namespace, queueName="a", managedBy="finetune.dev/operator")
    cluster.apply(queued)
    changed = merged(queued, {"spec": changes})
    if words:
        assert words in _refusal(cluster, changed)
    else:
        assert cluster.apply(changed, DRY)["spec"].get("queueName") == changes["queueName"]


def test_labels_and_annotations_may_change(cluster: Cluster, existing: Object) -> None:
    metadata = {"labels": {"team": "a"}, "annotations": {"why": "because"}}
    assert cluster.apply(merged(existing, {"metadata": metadata}), DRY)["metadata"]["labels"] == {"team": "a"}


def test_same_manifest_again_changes_nothing(cluster: Cluster, existing: Object) -> None:
    first = cluster.apply(existing)["metadata"]
    second = cluster.apply(existing)["metadata"]
    assert (first["generation"], first["resourceVersion"]) == (second["generation"], second["resourceVersion"])


@pytest.mark.parametrize(
    "file",
    [
        path
        for pattern in ("*.yaml", "gitops/team/team-*.yaml", "kueue/job.yaml")
        for path in sorted((PROJECT / "examples").glob(pattern))
    ],
    ids=lambda file: file.name,
)
def test_examples_are_accepted(cluster: Cluster, namespace: str, file: Any) -> None:
    result = cluster.run("create", DRY, "--validate=strict", "-n", namespace, "-f", str(file))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (
            "spec.deepspeed.zeroStage",
            ["<integer>", "ZeRO stage: 0 replicates everything, 1 partitions the optimizer state"],
        ),
        ("spec.deepspeed.microBatchSize", ["Rows that one process computes at a time"]),
        ("spec.hyperparameters.learningRate", ["<string>", "a decimal in quotes, such as '2e-4'"]),
        ("spec.hyperparameters.maxSequenceLength", ["Longest row, in tokens"]),
        ("spec.hyperparameters.warmupSteps", ["Optimizer steps of linear warmup"]),
        ("spec.resources.cpu", ["CPU of each training pod, in cores"]),
        ("spec.resources.memory", ["Memory of each training pod, in bytes"]),
        ("spec.dataset.validation.fraction", ["a decimal between 0 and 1 in quotes"]),
        ("status.artifact.bytes", ["in bytes"]),
        ("status.progress.tokensPerSecond", ["tokens per second"]),
        ("status.evaluation.lossAfter", ["Held-out loss of the published weights"]),
    ],
)
def test_explain_teaches(cluster: Cluster, field: str, words: list[str]) -> None:
    text = " ".join(cluster.kubectl("explain", f"ftj.{field}").split())
    assert all(word in text for word in words), text


def test_explain_lists_the_fields_of_a_group(cluster: Cluster) -> None:
    text = cluster.kubectl("explain", "ftj.spec.deepspeed")
    assert "zeroStage" in text
    assert "microBatchSize" in text
    assert "How DeepSpeed spreads model and optimizer over the processes." in text


def test_printer_columns(cluster: Cluster, existing: Object) -> None:
    namespace = existing["metadata"]["namespace"]
    status = {
        "state": "Training",
        "progress": {
            "step": 2,
            "totalSteps": 8,
            "percent": 25,
            "epoch": "0.5",
            "loss": "1.75",
            "eta": "42s",
            "updated": "2026-03-01T12:00:00Z",
        },
    }
    document = {**existing, "status": status}
    flags = ("apply", "--server-side", "--subresource=status", "--field-manager=test", "-f", "-")
    cluster.kubectl(*flags, stdin=yaml.safe_dump({key: value for key, value in document.items() if key != "spec"}))
    header, row = cluster.kubectl("get", "ftj", "existing", "-n", namespace).splitlines()
    assert header.split() == ["NAME", "STATE", "PROGRESS", "ETA", "LOSS", "AGE"]
    assert row.split()[:5] == ["existing", "Training", "25", "42s", "1.75"]
    wide = cluster.kubectl("get", "ftj", "existing", "-n", namespace, "-o", "wide").splitlines()[0]
    assert wide.split()[-2:] == ["RUN", "ARTIFACT"]


@pytest.mark.parametrize("name", ["finetunejobs", "finetunejob", "ftj", "finetune"])
def test_names_of_the_resource(cluster: Cluster, existing: Object, name: str) -> None:
    listed = cluster.kubectl("get", name, "-n", existing["metadata"]["namespace"], "-o", "name")
    assert "finetunejob.finetune.dev/existing" in listed


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"state": "Dreaming"}, "status.state: Unsupported value"),
        ({"runID": "latest"}, "runID in body should match"),
        ({"attempts": [{"number": 0}]}, "should be greater than or equal to 1"),
    ],
)
def test_status_is_checked_too(cluster: Cluster, existing: Object, status: Object, words: str) -> None:
    document = {key: value for key, value in existing.items() if key != "spec"} | {"status": status}
    text = yaml.safe_dump(document)
    flags = ("--server-side", "--force-conflicts", "--subresource=status", "--field-manager=refused", DRY, "-f", "-")
    result = cluster.run("apply", *flags, stdin=text)
    assert result.returncode != 0
    assert words in result.stderr
