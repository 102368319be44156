"""What vLLM does not serve is said; what it serves is not warned of."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.serving import serving_notes
from finetune_api.spec import MethodSpec


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({}, []),
        ({"lora": {"rank": 512, "rankStabilized": True}}, []),
        ({"lora": {"rank": 513}}, ["vLLM serves adapters up to rank 512; this one has 513"]),
        ({"lora": {"rank": 12}}, []),
        ({"lora": {"dora": True}}, ["vLLM does not serve DoRA adapters"]),
        ({"tuning": "qlora", "lora": {"dora": True, "rank": 600}}, ["vLLM serves adapters up to", "DoRA"]),
        ({"objective": "reward"}, ["a reward model's adapter brings its head"]),
        ({"objective": "reward", "tuning": "full"}, []),
        ({"tuning": "partial", "partial": {"head": True}}, []),
    ],
)
def test_notes(method: dict[str, Any], said: list[str]) -> None:
    notes = serving_notes(MethodSpec.model_validate(method))
    assert len(notes) == len(said)
    assert all(part in note for part, note in zip(said, notes, strict=True))
