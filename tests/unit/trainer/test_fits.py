"""Parts that the model has not are refused from the names of its tensors."""

from __future__ import annotations

import re
from typing import Any

import pytest

from finetune_api.spec import MethodSpec
from finetune_trainer.errors import UserError
from finetune_trainer.models.fits import check_parts

CONFIG = {"num_hidden_layers": 2}
TENSORS = {
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
}


def lora(*targets: str) -> dict[str, Any]:
    return {"lora": {"targetModules": list(targets)}}


def partial(blocks: int) -> dict[str, Any]:
    return {"tuning": "partial", "partial": {"lastBlocks": blocks}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (lora("q_proj", "c_attn"), "targetModules names 'c_attn', which is no module of the model"),
    (lora("all-linear", "q_proj"), "targetModules has all-linear beside other names"),
    (partial(3), "spec.method.partial.lastBlocks is 3, but the model has 2 blocks"),
]


@pytest.mark.parametrize(("method", "message"), REFUSED)
def test_refused(method: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_parts(MethodSpec.model_validate(method), CONFIG, TENSORS)


@pytest.mark.parametrize(
    ("method", "tensors"),
    [
        (lora("all-linear"), TENSORS),
        (lora("q_proj", "mlp.up_proj", "lm_head"), TENSORS),
        (lora("w1"), {"model.layers.0.mlp.experts.0.w2.weight"}),
        (lora("c_attn"), None),
        (partial(2), TENSORS),
        ({"tuning": "full"}, TENSORS),
    ],
)
def test_accepted(method: dict[str, Any], tensors: set[str] | None) -> None:
    given = MethodSpec.model_validate(method)
    check_parts(given, CONFIG, tensors)
    check_parts(given, {}, tensors)
    assert given.tuning
