"""Fills the bucket of the demo with a tiny model in place of SmolLM2: ``python -m support.tiny_fill``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from scripts.demo.store import BUCKET, PAIRS, ROWS, S3Bucket, fill

from support.tiny_model import write_tiny_model

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        fill(S3Bucket(BUCKET, os.environ), write_tiny_model(Path(folder) / "model"), ROWS, PAIRS)
