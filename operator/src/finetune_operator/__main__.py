"""``python -m finetune_operator``."""

import sys

from finetune_operator.main import main

sys.exit(main())
