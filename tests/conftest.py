"""Fixtures of every test. Fixtures of a session are imported here and nowhere else, or each importer gets its own."""

import os

from hypothesis import settings

from support.clusters import cluster

__all__ = ["cluster"]

# The tests' tensors are tiny, and several test workers share the machine: threads would only wait for each other, which
# OpenMP does by spinning. Read when PyTorch is imported; a pod's processes have a number of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadlines on a busy machine, and no files beside the sources; the same examples in every run.
settings.register_profile("project", deadline=None, database=None, derandomize=True)
settings.load_profile("project")
