"""Puts what the SmolLM2 examples read into a store: ``python -m scripts.demo.upload``.

The store is that of AWS_ENDPOINT_URL, AWS_REGION and the keys beside them, as ``python -m finetune_sandbox env`` prints
them; the bucket ``finetune`` has to be there.
"""

from __future__ import annotations

import os
import sys

from scripts.demo.cluster import CREDENTIALS
from scripts.demo.model import model_folder
from scripts.demo.store import BUCKET, PAIRS, ROWS, S3Bucket, fill


def main() -> int:
    """Uploads the model, the rows and the pairs; 2 when a variable is missing."""
    missing = [name for name in CREDENTIALS if not os.environ.get(name)]
    if missing:
        print(f"set {', '.join(missing)}: the store that the examples' data goes to", file=sys.stderr)
        return 2
    bucket = S3Bucket(BUCKET, os.environ)
    fill(bucket, model_folder(), ROWS, PAIRS)
    for prefix in ("models", "datasets"):
        for key in bucket.sizes(f"{prefix}/"):
            print(f"s3://{BUCKET}/{key}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
