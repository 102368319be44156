"""Fixtures of every test. Fixtures of a session are imported here and nowhere else, or each importer gets its own."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Generator
from multiprocessing.util import Finalize
from pathlib import Path

import pytest
from hypothesis import settings

from support.clusters import cluster

__all__ = ["cluster"]

# Files of these take minutes, most of it waiting. First, so that no worker is left alone with one at the end.
_LONG = ("chart", "cluster", "faults", "training", "local", "docs")

# The tests' tensors are tiny, and several test workers share the machine: threads would only wait for each other, which
# OpenMP does by spinning. Read when PyTorch is imported; a pod's processes have a number of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_AFTER_MULTIPROCESSING = -200
_CLUSTER_USERS = pytest.StashKey[set[Path]]()

# No deadlines on a busy machine, and no files beside the sources; the same examples in every run.
settings.register_profile("project", deadline=None, database=None, derandomize=True)
settings.load_profile("project")


def pytest_configure(config: pytest.Config) -> None:
    """Gives all processes of a run one folder for temporary files: what is killed cannot remove its own.

    pytest's folders stay where they are, for who wants to look into those of a failed test.
    """
    # A shell has what it runs in the background ignore SIGINT, and with it all programs that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="finetune-tests-")
    # A sandbox of another user passes through it.
    Path(folder).chmod(0o711)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    # When the workers have ended, and after multiprocessing has removed what it has there itself.
    Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=_AFTER_MULTIPROCESSING)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Looks for no garbage among what is collected, neither meanwhile nor later: all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        # Libraries count what is left of theirs when the process ends.
        atexit.register(gc.unfreeze)
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the longest folders first, and whatever uses the session's cluster beside its folder; within one the order
    stays."""
    folders = [config.rootpath / "tests" / folder for folder in _LONG]
    users = {item.path for item in items if isinstance(item, pytest.Function) and "cluster" in item.fixturenames}
    config.stash[_CLUSTER_USERS] = users

    def rank(file: Path) -> int:
        known = next((number for number, folder in enumerate(folders) if folder in file.parents), len(folders))
        return min(known, _LONG.index("cluster")) if file in users else known

    items.sort(key=lambda item: rank(item.path))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Takes the session's cluster down after the files that use it, with all that stands on it.

    For the rest of a run it would take a twenty-fifth of a core and 2 GB for each worker. Asked for later all the same,
    by who orders tests otherwise, it is made anew.
    """
    if isinstance(item, pytest.Function) and item.path not in item.config.stash[_CLUSTER_USERS]:
        for fixture in item.session._fixturemanager.getfixturedefs("cluster", item) or ():
            # Of the request it takes the node, for messages.
            fixture.finish(item._request)  # type: ignore[arg-type]
