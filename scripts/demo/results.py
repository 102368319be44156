"""What the demo shows in the end: objects in the bucket, and its own measurement of what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

from scripts.demo.console import heading, say, short
from scripts.demo.store import ARTIFACTS, BUCKET, PAIRS, ROWS, Bucket, fetch_folder

from finetune_trainer.data.splitfiles import VALIDATION_FILE

# One of the rows that are held out: the tuned model has to know it from other rows.
QUESTION = "What does ZeRO stage 2 partition?"


@dataclass(frozen=True)
class Results:
    """What the jobs left in a bucket; ``folder`` is one for what is downloaded of it."""

    bucket: Bucket
    model: Path
    folder: Path

    def show(self, statuses: Sequence[Mapping[str, Any]]) -> int:
        """Objects, losses and answers of the first job, and of the second if there is one; returns the exit code.

        0 says that the adapters, loaded back, are better on held-out rows than what they began as.
        """
        heading("Objects in the bucket")
        for key, size in self.bucket.sizes(ARTIFACTS).items():
            say(f"{size:>12,}  s3://{BUCKET}/{key}")
        adapters = [self._adapter(number, status) for number, status in enumerate(statuses)]
        better = self._losses(adapters[0], statuses[0])
        heading("Complete, verified, and the held-out loss is lower" if better else "The held-out loss is NOT lower")
        if len(adapters) > 1:
            preferred = self._preferences(adapters[0], adapters[1], statuses[1])
            better &= preferred
            heading("Held-out pairs are told apart better" if preferred else "Held-out pairs are NOT told apart better")
        return 0 if better else 1

    def _adapter(self, number: int, status: Mapping[str, Any]) -> Path:
        return fetch_folder(self.bucket, _key(status["artifact"]["uri"]), self.folder / f"adapter-{number}")

    def _losses(self, adapter: Path, status: Mapping[str, Any]) -> bool:
        heading("The adapter, loaded back with PEFT from the bucket, beside the base model")
        # PEFT imports it for any adapter, and it warns that weights of four bits would be slow; there are none.
        getLogger("bitsandbytes").setLevel(ERROR)
        # Imported here: until now no torch was needed, and importing it takes seconds.
        from scripts.demo.compare import compare

        found = compare(self.model, adapter, ROWS, self._held_out(status), QUESTION)
        job = status["evaluation"]
        say(f"held-out loss of {found.rows} rows, nats per token")
        say(f"  by the job      base {short(job['lossBefore'])}  tuned {short(job['lossAfter'])}")
        say(f"  measured again  base {found.base_loss:.4g}  tuned {found.tuned_loss:.4g}")
        say(f"\nQuestion  {QUESTION} (held out)\nBase      {found.base_answer}\nTuned     {found.tuned_answer}")
        return found.tuned_loss < found.base_loss

    def _preferences(self, before: Path, after: Path, status: Mapping[str, Any]) -> bool:
        heading("The adapter of preference tuning, loaded back with PEFT, beside the one that it went on from")
        from scripts.demo.preferences import compare_preferences

        found = compare_preferences(self.model, before, after, PAIRS, self._held_out(status))
        job = status["evaluation"]
        measured = job["after"]
        say(f"{found.pairs} held-out pairs; the loss went from {short(job['lossBefore'])} to {short(job['lossAfter'])}")
        say(f"  by the job      told apart {short(measured['rewardAccuracy'])}, by {short(measured['rewardMargin'])}")
        say(f"  measured again  told apart {found.accuracy:.4g}, chosen by {found.margin:.4g} nats more likely")
        return found.accuracy > 1 / 2 and float(job["lossAfter"]) < float(job["lossBefore"])

    def _held_out(self, status: Mapping[str, Any]) -> Path:
        # So few rows fill one shard.
        file = self.folder / f"{status['runID']}-{VALIDATION_FILE}"
        self.bucket.download(f"{_key(status['plan']['dataURI'])}/{VALIDATION_FILE}", file)
        return file


def _key(uri: str) -> str:
    """Key of an ``s3://`` URI inside the demo's bucket."""
    return uri.removeprefix(f"s3://{BUCKET}/")
