"""Memory and speed of the data part of prepare, for data sets of growing size: each in a process of its own.

    python benchmarks/trainer/prepare_memory.py --rows 10000 100000 1000000

Rows are generated with lengths that are log-normal, as those of chats are; a share of them repeats earlier ones. Prints
one line per size and writes benchmarks/results/prepare-memory.json. RSS is the highest that the kernel saw, in MiB.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "prepare-memory.json"
sys.path.insert(0, str(ROOT / "tests"))

from support.paper_model import write_paper_model  # noqa: E402
from support.run_plans import Place  # noqa: E402

WORDS = [f"{first}{second}" for first in "bcdfgklmnprst" for second in ("an", "er", "in", "on", "us", "al", "ed", "or")]
_REPEATED = 0.05


def generated_rows(count: int) -> Iterator[bytes]:
    """Chat rows of about 100 words in the middle, always the same ones."""
    source = random.Random(0)
    line = b""
    for number in range(count):
        if not line or source.random() >= _REPEATED:
            length = max(2, min(2000, int(source.lognormvariate(4.2, 0.8))))
            answer = " ".join(source.choices(WORDS, k=length))
            turns = [
                {"role": "user", "content": f"Question {number}?"},
                {"role": "assistant", "content": f"{answer}."},
            ]
            line = json.dumps({"messages": turns}).encode() + b"\n"
        yield line


def measure(rows: int, folder: Path) -> dict[str, float]:
    """Prepares some rows in this process. Seconds are those of all its threads."""
    bucket = folder / "store" / "bucket"
    bucket.mkdir(parents=True)
    with (bucket / "rows.jsonl").open("wb") as file:
        file.writelines(generated_rows(rows))
    place = Place(f"file://{folder / 'store'}", "bucket", folder / "workspace")
    place.workspace.mkdir()
    place.put_folder(write_paper_model(folder / "model"), "model")
    from finetune_trainer.prepare import prepare

    dataset = {"train": [{"source": "s3://bucket/rows.jsonl"}], "validation": {"fraction": "0.01"}}
    plan = place.plan(dataset=dataset, hyperparameters={"maxSequenceLength": 512})
    before, started = time.process_time(), time.perf_counter()
    prepared = prepare(plan, place.environment)
    seconds, elapsed = time.process_time() - before, time.perf_counter() - started
    size = (bucket / "rows.jsonl").stat().st_size
    return {
        "rows": rows,
        "megabytes": round(size / 1e6, 1),
        "tokens": prepared.train.tokens,
        "cpuSeconds": round(seconds, 2),
        "seconds": round(elapsed, 2),
        "rowsPerCpuSecond": round(rows / seconds),
        "maxRssMiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with TemporaryDirectory() as folder:
            print(json.dumps(measure(options.rows[0], Path(folder))))
        return
    found = []
    for rows in options.rows:
        command = [sys.executable, __file__, "--one", "--rows", str(rows)]
        found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        print(json.dumps(found[-1]), flush=True)
    versions = {name: version(name) for name in ("tokenizers", "numpy", "jinja2")} | {
        "python": platform.python_version()
    }
    RESULTS.write_text(json.dumps({"versions": versions, "sizes": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
