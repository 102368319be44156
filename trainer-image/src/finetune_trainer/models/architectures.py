"""What is known of architectures, by the ``model_type`` of config.json. Pure.

An architecture is known when a test shows two things of it: documents in one row do not see each other when the
attention keeps them apart, and its logits are a linear map of the last hidden state with the :class:`HeadForm` given
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KNOWN = frozenset(
    {
        "apertus",
        "arcee",
        "cohere",
        "cohere2",
        "ernie4_5",
        "exaone4",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt_neox",
        "granite",
        "granitemoe",
        "helium",
        "hunyuan_v1_dense",
        "llama",
        "ministral",
        "ministral3",
        "mistral",
        "mixtral",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "starcoder2",
    }
)
# These stretch rotary positions by the longest row of a micro-batch, so that documents would change each other.
_STRETCHED_BY_LENGTH = ("dynamic", "longrope")

Config = Mapping[str, Any]


@dataclass(frozen=True)
class HeadForm:
    """What happens between the head's linear map and the softmax."""

    scale: float = 1.0
    """Logits are multiplied by it (Cohere; Granite divides)."""
    softcap: float | None = None
    """Then squeezed to softcap * tanh(logits / softcap) (Gemma 2, arXiv 2408.00118, section 2)."""


def head_form(config: Config) -> HeadForm:
    """The head's form of a known architecture."""
    if config["model_type"] in ("cohere", "cohere2"):
        return HeadForm(scale=float(config["logit_scale"]))
    if config["model_type"] in ("granite", "granitemoe"):
        return HeadForm(scale=1.0 / float(config["logits_scaling"]))
    return HeadForm(softcap=config.get("final_logit_softcapping"))


def why_not_together(config: Config, longest: int) -> str | None:
    """Why documents of at most ``longest`` tokens cannot share a row of this model, or None when they can."""
    model_type = config.get("model_type")
    if model_type not in KNOWN:
        return f"nothing proves that documents in one row do not see each other in the architecture {model_type}"
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type"))
    unstretched = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    unstretched = unstretched or config.get("max_position_embeddings", 0)
    if kind in _STRETCHED_BY_LENGTH and longest > unstretched:
        return (
            f"its rotary positions ({kind}) depend on the longest document of a batch beyond {unstretched} tokens, "
            f"and spec.hyperparameters.maxSequenceLength is {longest}"
        )
    return None
