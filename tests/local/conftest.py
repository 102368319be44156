"""Stores for local runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.local_store import Store, new_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that the tests of a module share."""
    return new_store(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def own_store(tmp_path: Path) -> Store:
    """A store of one test's own."""
    return new_store(tmp_path)
