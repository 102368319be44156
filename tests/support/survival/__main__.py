"""``PYTHONPATH=tests python -m support.survival kills --seed 7 --count 200``: faults of training processes, seeded."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from support.survival.ranks import import_everything

SCENES = ("frozen", "kills", "steady", "stops")


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays one scene and prints its record as JSON; a failure ends with the command that repeats it."""
    parser = argparse.ArgumentParser(prog="support.survival", description=__doc__)
    parser.add_argument("scene", choices=SCENES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, required=True, help="freezes, kills, steps or stops")
    options = parser.parse_args(arguments)
    import_everything()
    scene = import_module(f"support.survival.{options.scene}")
    with tempfile.TemporaryDirectory(prefix="survival-") as folder:
        try:
            record = scene.run(Path(folder), options.seed, options.count)
        except Exception:
            traceback.print_exc()
            print(
                f"seed {options.seed}; to repeat it: PYTHONPATH=tests python -m support.survival {options.scene} "
                f"--seed {options.seed} --count {options.count}",
                file=sys.stderr,
            )
            return 1
    print(json.dumps({"scene": options.scene, "seed": options.seed} | record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
