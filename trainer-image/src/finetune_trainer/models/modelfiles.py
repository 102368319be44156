"""Which files define a model in the Hugging Face layout, and whether they are one. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from finetune_trainer.errors import UserError

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# Everything but the weights. What else a folder holds, such as a README, does not change what is trained.
DEFINING = (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    WEIGHTS_INDEX,
)
TOKENIZER_FILES = frozenset(DEFINING) - {CONFIG, GENERATION_CONFIG, WEIGHTS_INDEX}
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_FIELD = "spec.model.source"
_LAYOUT = f"point {_FIELD} at a folder in the Hugging Face layout: config.json, tokenizer.json and model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_CAUSAL = ("ForCausalLM", "LMHeadModel")
_SAFETENSORS = ".safetensors"
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")

Json = Mapping[str, Any]


def check_names(source: str, names: Collection[str]) -> None:
    """Refuses a folder that cannot be a model by the names of its files.

    Raises:
        UserError: something is missing, in words.
    """
    if not names:
        raise UserError(f"{source} of {_FIELD} does not exist or is empty", f"correct {_FIELD}")
    if CONFIG not in names:
        what = "a PEFT adapter, not a base model" if ADAPTER_CONFIG in names else "no model"
        raise UserError(f"{source} of {_FIELD} is {what}: it has no {CONFIG}", _LAYOUT)
    if WEIGHTS not in names and WEIGHTS_INDEX not in names:
        raise _no_weights(source, names)
    if TOKENIZER not in names:
        raise UserError(
            f"{source} of {_FIELD} has no {TOKENIZER}",
            "write one beside the model: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)",
        )


def _no_weights(source: str, names: Collection[str]) -> UserError:
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if pickles:
        return UserError(
            f"{source} of {_FIELD} has its weights only as pickle ({pickles[0]}), which can run code when it is loaded",
            "convert it: AutoModelForCausalLM.from_pretrained(MODEL).save_pretrained(FOLDER) writes safetensors",
        )
    return UserError(f"{source} of {_FIELD} is no model: it has no {WEIGHTS} and no {WEIGHTS_INDEX}", _LAYOUT)


def weight_files(source: str, names: Collection[str], index: bytes | None) -> tuple[str, ...]:
    """Names of the weight files, sorted: the shards of the index, else the one file.

    Raises:
        UserError: the index is not readable or names a shard that is not there.
    """
    if index is None:
        return (WEIGHTS,)
    shards = parse_json(source, WEIGHTS_INDEX, index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"{source} of {_FIELD} is no model: {WEIGHTS_INDEX} has no weight_map", _LAYOUT)
    found = tuple(sorted(set(map(str, shards.values()))))
    # transformers would unpickle a shard of another kind.
    others = [name for name in found if "/" in name or not name.endswith(_SAFETENSORS)]
    if others:
        raise UserError(
            f"{source} of {_FIELD} is no model: {WEIGHTS_INDEX} names {others[0][:200]}, which is no safetensors file "
            "beside it",
            "write the model anew with save_pretrained, which makes safetensors",
        )
    absent = [name for name in found if name not in names]
    if absent:
        raise UserError(
            f"{source} of {_FIELD} is incomplete: {WEIGHTS_INDEX} names {absent[0]}, which is not there",
            "copy the whole model again",
        )
    return found


def parse_json(source: str, name: str, content: bytes) -> Json:
    """A JSON object of the model's folder.

    Raises:
        UserError: it is none.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{source} of {_FIELD} is no model: {name} is not JSON ({reason})", _LAYOUT) from error
    if not isinstance(document, dict):
        raise UserError(f"{source} of {_FIELD} is no model: {name} is not a JSON object", _LAYOUT)
    return document


def check_configs(source: str, configs: Mapping[str, Json]) -> None:
    """Refuses a model that is not a causal language model of the transformers library itself.

    Raises:
        UserError: the model wants code of its own, or is of another kind.
    """
    for name, config in configs.items():
        foreign = next(filter(None, map(_foreign_code, _objects(config))), None)
        if foreign:
            raise UserError(
                f"{source} of {_FIELD} wants to run code of its own ({foreign} in {name}), which is refused",
                "use a model whose architecture is part of the transformers library",
            )
    config = configs[CONFIG]
    architectures = [str(name) for name in config.get("architectures") or ()]
    if not config.get("model_type"):
        raise UserError(f"{source} of {_FIELD} is no model: {CONFIG} has no model_type", _LAYOUT)
    if not any(name.endswith(_CAUSAL) for name in architectures):
        raise UserError(
            f"{source} of {_FIELD} is not a causal language model: its architectures are "
            f"{', '.join(architectures) or 'not named'} in {CONFIG}",
            "use a model whose architecture ends in ForCausalLM",
        )


def _objects(document: Any) -> Iterator[Json]:
    """All objects of a document, however deep they lie."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _foreign_code(config: Json) -> str | None:
    """The field by which an object of a configuration asks for code that is no part of transformers."""
    if "auto_map" in config:
        return "auto_map"
    # A name with a slash is a repository whose compiled kernels would be downloaded and run.
    asked = {name: json.dumps(config[name]) for name in _IMPLEMENTATIONS if name in config}
    return next((name for name, value in asked.items() if "/" in value), None)


def check_size(source: str, config: Json, tensors: int) -> None:
    """Refuses a configuration of so many layers that building them would take for ever.

    Raises:
        UserError: there are more layers than tensors.
    """
    layers = max((config[name] for name in _LAYERS if isinstance(config.get(name), int)), default=0)
    if layers > tensors:
        raise UserError(
            f"{source} of {_FIELD} is no model: {CONFIG} says {layers} layers, and the weights have {tensors} tensors",
            "copy the whole model again",
        )


def vocabulary_size(config: Json) -> int | None:
    """Rows of the embedding, where the configuration says so."""
    size = config.get("vocab_size")
    return size if isinstance(size, int) else None


def longest_context(config: Json) -> int | None:
    """Positions that the model knows, in tokens, where the configuration says so."""
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(config.get(name), int):
            return int(config[name])
    return None
