"""Fills the bucket of the demo with a model in place of SmolLM2: ``python -m support.tiny_fill FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from scripts.demo.store import BUCKET, PAIRS, ROWS, S3Bucket, fill

if __name__ == "__main__":
    fill(S3Bucket(BUCKET, os.environ), Path(sys.argv[1]), ROWS, PAIRS)
