"""Entry point of ``python -m finetune_sandbox``."""

import sys

from finetune_sandbox.cli import main

sys.exit(main())
