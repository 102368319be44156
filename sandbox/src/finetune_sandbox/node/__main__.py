"""``python -m finetune_sandbox.node --config node.json``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from finetune_sandbox.node.agent import run_agent
from finetune_sandbox.node.config import load_config
from finetune_sandbox.node.errors import NodeError


def main() -> int:
    """Run the agent; the exit code tells an error of the configuration from one of the machine."""
    parser = argparse.ArgumentParser(prog="finetune_sandbox.node", description="Runs pods as processes.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file that describes the nodes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run_agent(load_config(arguments.config)))
    except NodeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
