"""Stores for the tests of the prepare and publish stages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from support.object_store import CREDENTIALS, make_bucket, object_store
from support.paper_model import write_paper_model
from support.run_plans import ROWS, Place, jsonl

_numbers = count()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real object store."""
    with object_store(tmp_path_factory.mktemp("objects")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def paper_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model; not to be changed."""
    return write_paper_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder_place(tmp_path: Path, paper_model: Path) -> Place:
    """A folder as store, with a model and thirty rows in its bucket."""
    (tmp_path / "store" / "bucket").mkdir(parents=True)
    return _filled(Place(f"file://{tmp_path}/store", "bucket", tmp_path / "workspace"), paper_model)


@pytest.fixture
def s3_place(s3_endpoint: str, tmp_path: Path, paper_model: Path) -> Place:
    """A bucket of its own in the object store, with a model and thirty rows in it."""
    bucket = f"bucket-{next(_numbers)}"
    make_bucket(s3_endpoint, bucket)
    return _filled(Place(s3_endpoint, bucket, tmp_path / "workspace", CREDENTIALS), paper_model)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    """Both kinds of store."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


def _filled(place: Place, model: Path) -> Place:
    place.workspace.mkdir(exist_ok=True)
    place.put_folder(model, "model")
    place.put("data/train.jsonl", jsonl(ROWS))
    return place
