"""What the stages find out: the prepared run, the evaluation and the published artifact."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, SignedDecimalString

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^r-[0-9a-f]{20}$")]
Count = Annotated[int, Field(ge=0)]


class SplitSummary(Document):
    """Counts of one split of the prepared data."""

    digest: Annotated[Digest, Field(description="Digest of the content of the files that were read.")]
    rows: Annotated[Count, Field(description="Rows.")]
    tokens: Annotated[Count, Field(description="Tokens, after truncation.")]
    loss_tokens: Annotated[Count, Field(description="Tokens that carry loss.")]
    truncated: Annotated[Count, Field(description="Rows cut to hyperparameters.maxSequenceLength.")]
    packed_rows: Annotated[
        Count | None,
        Field(
            default=None, description="Rows of maxSequenceLength tokens that hyperparameters.packing puts them into."
        ),
    ]


class DataSummary(Document):
    """What the data report says, in numbers. Rows are counted before weights."""

    report: Annotated[str, Field(max_length=2048, description="The data report, a page with examples.")]
    source_rows: Annotated[
        tuple[Count, ...],
        Field(
            max_length=32,
            description="Rows read of each source, of spec.dataset.train first and then held out.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]
    refused: Annotated[Count, Field(description="Rows that cannot be used and were left out.")]
    duplicates: Annotated[Count, Field(description="Training rows that equal an earlier one.")]
    near_duplicates: Annotated[
        Count, Field(description="Other training rows that nearly equal an earlier one, estimated by MinHash.")
    ]
    validation_overlap: Annotated[Count, Field(description="Held-out rows that equal a training row.")]
    without_loss: Annotated[Count, Field(description="Rows of which no token carries loss after truncation.")]


Measures = Annotated[dict[str, SignedDecimalString], Field(max_length=16)]
MAX_HISTORY = 16


class EvaluationPoint(Document):
    """One evaluation during training."""

    step: Annotated[Count, Field(description="Optimizer steps done.")]
    loss: Annotated[SignedDecimalString, Field(description="Held-out loss.")]


class EvaluationResult(Document):
    """The held-out split measured with the model as it was at the start and as it is published."""

    loss_before: Annotated[
        SignedDecimalString,
        Field(description="Held-out loss of the model at the start, in the objective's unit (sft: nats per token)."),
    ]
    loss_after: Annotated[SignedDecimalString, Field(description="Held-out loss of the published weights.")]
    before: Annotated[
        Measures | None,
        Field(
            default=None,
            description="What else was measured at the start, by name: perplexity and tokenAccuracy of sft, "
            "rewardAccuracy and rewardMargin of preferences.",
        ),
    ]
    after: Annotated[Measures | None, Field(default=None, description="The same of the published weights.")]
    published_step: Annotated[
        Count | None, Field(default=None, description="Optimizer steps that the published weights have seen.")
    ]
    best_step: Annotated[
        Count | None, Field(default=None, description="Step of the lowest held-out loss after the start.")
    ]
    stopped_at_step: Annotated[
        Count | None, Field(default=None, description="Step after which early stopping ended training, if it did.")
    ]
    history: Annotated[
        tuple[EvaluationPoint, ...] | None,
        Field(
            default=None,
            max_length=MAX_HISTORY,
            description="Held-out losses, oldest first, thinned out evenly; metrics.jsonl has all of them.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]


class Artifact(Document):
    """A published artifact that was read back and verified."""

    uri: Annotated[str, Field(alias="uri", max_length=2048, description="s3:// folder of the artifact.")]
    kind: Annotated[str, Field(max_length=32, description="adapter or model.")]
    manifest_digest: Annotated[Digest, Field(description="SHA-256 of manifest.json.")]
    content_digest: Annotated[
        Digest, Field(description="Digest over the files that make the model, without records such as timings.")
    ]
    files: Annotated[Count, Field(description="Files in the artifact, without manifest.json.")]
    total_bytes: Annotated[Count, Field(alias="bytes", description="Size of these files, in bytes.")]


class PinnedWeights(Document):
    """Weights beside the model, as prepare found them."""

    digest: Annotated[Digest, Field(description="Digest of their files.")]
    revision: Annotated[str | None, Field(default=None, max_length=128, description="Commit of an hf:// source.")]


class Prepared(Document):
    """What the prepare stage resolved; everything that the run ID stands for."""

    run_id: Annotated[RunId, Field(alias="runID")]
    model_digest: Annotated[Digest, Field(description="Digest of the model's files.")]
    model_revision: Annotated[str | None, Field(default=None, max_length=128, description="Commit of an hf:// model.")]
    adapter: Annotated[PinnedWeights | None, Field(default=None, description="The adapter that training starts from.")]
    reference: Annotated[PinnedWeights | None, Field(default=None, description="The model that is compared with.")]
    data_uri: Annotated[str, Field(alias="dataURI", max_length=2048, description="s3:// folder of the tokenized data.")]
    train: SplitSummary
    validation: SplitSummary | None = None
    data: DataSummary | None = None
    steps: Annotated[int, Field(ge=1, description="Optimizer steps of the whole run.")]
    adopted: Annotated[
        Artifact | None, Field(default=None, description="The artifact, when this run is already published and intact.")
    ]
    adopted_evaluation: EvaluationResult | None = None

    def revision(self, use: str) -> str | None:
        """Commit of the hf:// weights of a use, see :mod:`finetune_api.weights`."""
        pinned = {"adapter": self.adapter, "reference": self.reference}.get(use)
        return self.model_revision if use == "model" else pinned.revision if pinned else None


class Checkpoint(Document):
    """A committed checkpoint: training can go on from it, on any number of processes."""

    step: Annotated[int, Field(ge=0, description="Optimizer steps done.")]
    time: Annotated[datetime, Field(description="When it was committed.")]
    uri: Annotated[str, Field(max_length=2048, description="s3:// folder of the checkpoint.")]
    world_size: Annotated[int, Field(ge=1, description="Processes that wrote it.")]
