"""A cluster without any trace of the operator, and a store with a tiny model."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_sandbox import Sandbox
from support.operated import Platform
from support.tiny_model import write_chat_rows, write_tiny_model


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A sandbox of its own: these tests install and remove what every other test needs."""
    folder: Path = tmp_path_factory.mktemp("chart")
    with Sandbox.up(folder / "state", preload="finetune_trainer.preload", attached=True) as sandbox:
        platform = Platform(sandbox.kubeconfig, sandbox.environment(), sandbox.bucket, f"chart-{uuid.uuid4().hex[:8]}")
        platform.upload_folder("models/tiny", write_tiny_model(folder / "tiny"))
        platform.upload("data/train.jsonl", write_chat_rows(folder / "train.jsonl", 40).read_bytes())
        yield platform
