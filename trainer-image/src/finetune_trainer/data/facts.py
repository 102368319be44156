"""What prepare found in the data, as the data report shows it and as thresholds judge it. Free of numpy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import Document
from finetune_api.results import Count


class SourceFacts(Document):
    """One source: where it was when it was read, and what became of its rows."""

    split: str
    uri: str
    revision: str | None = None
    format: str
    weight: str
    files: Count
    rows: Annotated[Count, Field(description="Rows read.")]
    refused: Count


class RefusedFacts(Document):
    """One row that cannot be used."""

    place: str
    reason: str


class ExampleFacts(Document):
    """One sequence as the model sees it, cut to what a page can show; spans are ranges of characters with loss."""

    place: str
    text: str
    spans: tuple[tuple[int, int], ...]
    cut: bool = False


class DataFacts(Document):
    """Everything that the report tells. Lists are bounded, whatever the size of the data."""

    sources: tuple[SourceFacts, ...]
    rows: Annotated[Count, Field(description="Rows read, over all sources.")]
    refused: Annotated[Count, Field(description="Rows that cannot be used and were left out.")]
    refused_too_long: Count = 0
    refused_rows: Annotated[tuple[RefusedFacts, ...], Field(default=(), description="The first of them.")]
    train_rows: Annotated[Count, Field(description="Training rows before weights.")]
    held_out_rows: Count = 0
    duplicates: Annotated[Count, Field(description="Training rows that equal an earlier one.")]
    near_duplicates: Annotated[Count, Field(description="Others that nearly equal an earlier one, by MinHash.")]
    overlap: Annotated[Count, Field(description="Held-out rows that equal a training row.")]
    near_overlap: Annotated[Count, Field(description="Other held-out rows that nearly equal a training row.")]
    truncated: Annotated[Count, Field(description="Training rows cut to the longest that is allowed, before weights.")]
    without_loss: Annotated[Count, Field(description="Rows of which no token carries loss, both splits.")]
    lengths: Annotated[
        tuple[tuple[int, int], ...],
        Field(default=(), description="Histogram of tokens before truncation: upper bound and number of sequences."),
    ]
    tokens: Annotated[Count, Field(description="Tokens after truncation, both splits, before weights.")]
    loss_tokens: Annotated[Count, Field(description="Those of them that carry loss.")]
    examples: tuple[ExampleFacts, ...] = ()
