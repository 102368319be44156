"""Where ``python -m finetune_trainer`` begins: ready to be stopped before anything else."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

# ExitCode.PREEMPTED; importing it takes long enough for a signal to come. The kernel hands no signal to the first
# process of a container that has no handler for it: the pod would train on until it is killed.
PREEMPTED = 17


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(PREEMPTED)


def main() -> int:
    """Until a stage handles the signal itself, there is nothing to save."""
    signal.signal(signal.SIGTERM, _end_at_once)
    from finetune_trainer.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
