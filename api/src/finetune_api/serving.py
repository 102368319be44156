"""What servers do not take of an adapter, said before it is trained. Pure.

Source: vLLM's ``vllm/lora/peft_helper.py`` (``_validate_features``) and ``LoRAConfig.max_lora_rank``, whose largest
value is 512.
"""

from __future__ import annotations

from finetune_api.spec import LoraOptions, MethodSpec, Objective

_MAX_RANK = 512


def serving_notes(method: MethodSpec) -> tuple[str, ...]:
    """Sentences for people; none when vLLM serves the result as it is."""
    if not method.tuning.adapts:
        return ()
    lora = method.lora or LoraOptions()
    notes = {
        f"vLLM serves adapters up to rank {_MAX_RANK}; this one has {lora.rank}": lora.rank > _MAX_RANK,
        "vLLM does not serve DoRA adapters; use PEFT or merge it with PEFT": lora.dora,
        "a reward model's adapter brings its head, which many versions of vLLM refuse (modules_to_save); use PEFT": (
            method.objective is Objective.REWARD
        ),
    }
    return tuple(note for note, applies in notes.items() if applies)
