"""Fixtures of every test. Fixtures of a session are imported here and nowhere else, or each importer gets its own."""

from hypothesis import settings

from support.clusters import cluster

__all__ = ["cluster"]

# No deadlines on a busy machine, and no files beside the sources; the same examples in every run.
settings.register_profile("project", deadline=None, database=None, derandomize=True)
settings.load_profile("project")
