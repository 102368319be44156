"""The corpus of manifests against the operator's own judgement; tests/schema has the API server's."""

from __future__ import annotations

import pytest

from support.manifest_corpus import Case, judged, read

BAD, GOOD = read("bad.yaml"), read("good.yaml")
# The prepare pod finds these: what they name is known to the cluster and the store alone.
FOUND_LATER = ("schema", "prepare")


def test_the_corpus_is_large_and_names_each_case_once() -> None:
    assert len(BAD) >= 100
    assert len(GOOD) >= 100
    for cases in (BAD, GOOD):
        assert len({case.name for case in cases}) == len(cases)
    assert sum(case.by != "prepare" for case in BAD) >= 0.9 * len(BAD)


@pytest.mark.parametrize("case", [case for case in BAD if case.by not in FOUND_LATER], ids=lambda case: case.name)
def test_a_bad_manifest_gets_no_pod(case: Case) -> None:
    assert judged(case) == case.by


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_good_manifest_passes(case: Case) -> None:
    assert judged(case) == ""
