"""Whether an artifact is what was trained: finite, not empty, and fitting the base model. Pure, over names and shapes.

Key names: PEFT's ``base_model.model.<module>.lora_{A,B}.weight``, https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.errors import VerificationFailed
from finetune_trainer.models.modelfiles import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, TOKENIZER

_ADAPTER_PREFIX = "base_model.model."
_REMEDY = "run the job again; if it fails the same way, this is a fault of the trainer: report it with the pod's log"
# Constants that older checkpoints carry and newer libraries compute.
_BUFFERS = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")
# By the architecture, names of the output head in files.
_HEADS = frozenset({"lm_head.weight", "embed_out.weight"})
# transformers' sequence classification, as the objective reward trains it.
_SCORING, _SCALAR_HEAD = "ForSequenceClassification", "score.weight"
_LENGTHS = ".lora_magnitude_vector"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TensorFacts:
    """What was seen of one tensor when it was read back."""

    shape: tuple[int, ...]
    finite: bool
    zero: bool


def check_adapter(tensors: Mapping[str, TensorFacts], config: Mapping[str, Any], base: Shapes, base_name: str) -> None:
    """Checks an adapter against its configuration and the shapes of the base model's tensors.

    Raises:
        VerificationFailed: it is empty, zero, not finite, incomplete or does not fit.
    """
    _check_finite(tensors)
    if config.get("base_model_name_or_path") != base_name:
        found = config.get("base_model_name_or_path")
        raise _failed(f"{ADAPTER_CONFIG} names the base model {found!r} instead of {base_name!r}")
    beside = _beside(tensors, config)
    pairs = dict(_pairs([name for name in tensors if name not in beside]))
    if not pairs:
        raise _failed("the adapter is empty")
    _check_lengths(tensors, pairs, config)
    if all(tensors[up].zero for _, up in pairs.values()):
        raise _failed("the adapter is zero: training has changed nothing")
    for module, (down, up) in pairs.items():
        _check_pair(module, tensors[down].shape, tensors[up].shape, config, base)
    targets = config.get("target_modules")
    if isinstance(targets, list):
        _check_targets(targets, pairs, base)


def check_model(tensors: Mapping[str, TensorFacts], config: Mapping[str, Any], base: Shapes) -> None:
    """Checks a full model against the shapes of the base model's tensors.

    Raises:
        VerificationFailed: it is empty, zero, not finite, or has other tensors than the base model.
    """
    _check_finite(tensors)
    if not tensors or all(tensor.zero for tensor in tensors.values()):
        raise _failed("the model is empty or zero")
    optional = _HEADS if config.get("tie_word_embeddings", True) else frozenset()
    if _scores(config.get("architectures")):
        optional = _HEADS | {_SCALAR_HEAD}
        if _SCALAR_HEAD not in tensors:
            raise _failed(f"the reward model lacks its head {_SCALAR_HEAD}")
    known = {name: base_name(name, base) for name in tensors}
    extra = sorted(name for name, found in known.items() if found is None and name not in optional)
    if extra:
        raise _failed(f"the model has the tensor {extra[0]}, which the base model has not ({len(extra)} such)")
    absent = sorted(name for name in base.keys() - set(known.values()) - optional if not name.endswith(_BUFFERS))
    if absent:
        raise _failed(f"the model lacks the base model's tensor {absent[0]} ({len(absent)} such)")
    for name, found in known.items():
        if found is not None and tensors[name].shape != base[found]:
            raise _failed(f"{name} has the shape {list(tensors[name].shape)}, the base model's {list(base[found])}")


def check_names(names: Collection[str], adapter: bool) -> None:
    """Checks that the files which loaders look for are there.

    Raises:
        VerificationFailed: one is missing.
    """
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if adapter else (CONFIG, TOKENIZER):
        if name not in names:
            raise _failed(f"the artifact has no {name}")


def check_index(index: Mapping[str, Any], files_of_tensors: Mapping[str, str]) -> None:
    """Checks that the index of a sharded model names each tensor's file.

    Raises:
        VerificationFailed: it does not.
    """
    if index.get("weight_map") != dict(files_of_tensors):
        raise _failed("the index of the shards does not say where the tensors are")


def base_name(name: str, base: Collection[str]) -> str | None:
    """Name that a tensor has in the base checkpoint, which may leave out leading parts such as ``transformer.``."""
    while name not in base:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name


def _check_finite(tensors: Mapping[str, TensorFacts]) -> None:
    for name, tensor in tensors.items():
        if not tensor.finite:
            raise _failed(f"the tensor {name} holds NaN or infinity")


def _scores(architectures: object) -> bool:
    return isinstance(architectures, list) and any(str(name).endswith(_SCORING) for name in architectures)


def _beside(tensors: Mapping[str, TensorFacts], config: Mapping[str, Any]) -> set[str]:
    """Tensors that an adapter has beside its pairs: a reward model's head, and the lengths of DoRA."""
    found: set[str] = set()
    if config.get("task_type") == "SEQ_CLS":
        found.add(_ADAPTER_PREFIX + _SCALAR_HEAD)
        if not found <= tensors.keys():
            raise _failed(f"the adapter of a reward model lacks its head {_SCALAR_HEAD}")
    if config.get("use_dora"):
        found |= {name for name in tensors if name.endswith(_LENGTHS)}
    return found


def _check_lengths(
    tensors: Mapping[str, TensorFacts], pairs: Mapping[str, tuple[str, str]], config: Mapping[str, Any]
) -> None:
    for module, (_, up) in pairs.items() if config.get("use_dora") else ():
        found = tensors.get(f"{_ADAPTER_PREFIX}{module}{_LENGTHS}")
        if found is None or found.shape != (tensors[up].shape[0],):
            raise _failed(f"the adapter of {module} lacks the lengths of its columns, which DoRA learns")


def _pairs(tensors: Collection[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Module name, and the names of its down and up projection."""
    for down in tensors:
        module, found, _ = down.partition(".lora_A.")
        if not found:
            if ".lora_B." in down and down.replace(".lora_B.", ".lora_A.") in tensors:
                continue
            raise _failed(f"the adapter's tensor {down} has no counterpart")
        up = down.replace(".lora_A.", ".lora_B.")
        if up not in tensors or not module.startswith(_ADAPTER_PREFIX):
            raise _failed(f"the adapter's tensor {down} has no counterpart")
        yield module.removeprefix(_ADAPTER_PREFIX), (down, up)


def _check_pair(
    module: str, down: tuple[int, ...], up: tuple[int, ...], config: Mapping[str, Any], base: Shapes
) -> None:
    found = base_name(f"{module}.weight", base)
    if found is None:
        raise _failed(f"the adapter changes {module}, which the base model has not")
    rank = config.get("r")
    if len(down) != 2 or len(up) != 2 or (down[0], up[1]) != (rank, rank):
        raise _failed(f"the adapter of {module} has the shapes {list(down)} and {list(up)}, not those of rank {rank}")
    # Layers that keep their weight transposed (GPT-2's Conv1D) have the same two sizes in the other order.
    if sorted((up[0], down[1])) != sorted(base[found]):
        raise _failed(f"the adapter of {module} is for {up[0]} x {down[1]}, the base model has {list(base[found])}")


def _check_targets(targets: Collection[str], pairs: Collection[str], base: Shapes) -> None:
    adapted = {base_name(f"{module}.weight", base) for module in pairs}
    for name, shape in base.items():
        module = name.removesuffix(".weight")
        targeted = module != name and len(shape) == 2 and any(f".{module}".endswith(f".{target}") for target in targets)
        if targeted and name not in adapted:
            raise _failed(f"the adapter lacks {module}, which {ADAPTER_CONFIG} says it changes")


def _failed(what: str) -> VerificationFailed:
    return VerificationFailed(f"the published artifact is not right: {what}", _REMEDY)
