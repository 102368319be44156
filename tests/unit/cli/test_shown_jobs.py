"""What a terminal shows of jobs in every state, compared as a whole with the files in shown/."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_cli import jobview
from finetune_cli.render.describe import description
from finetune_cli.render.joblist import job_table
from finetune_cli.render.watching import Seen, line, picture
from support.rendered import as_text, assert_same
from support.shown_jobs import FAILED, JOBS, NOW, TRAINING, Object, followed, job, stamp

FOLDER = Path(__file__).parent / "shown"
EVENT = {"type": "Warning", "reason": "Retrying", "note": "attempt 1 was lost: evicted", "eventTime": stamp(700)}
EVENTS: dict[str, list[Object] | None] = {"training": [EVENT], "failed": None}


@pytest.mark.parametrize("state", JOBS)
def test_description(state: str) -> None:
    assert_same(as_text(description(JOBS[state], EVENTS.get(state, []), NOW)), FOLDER / f"describe-{state}.txt")


@pytest.mark.parametrize(
    ("name", "width", "wide", "all_namespaces"), [("list", 100, False, False), ("wide", 300, True, True)]
)
def test_list(name: str, width: int, wide: bool, all_namespaces: bool) -> None:
    table = job_table(list(JOBS.values()), NOW, wide, all_namespaces)

    assert_same(as_text(table, width), FOLDER / f"{name}.txt")


def test_only_the_model_gives_way_in_a_narrow_terminal() -> None:
    head, row = as_text(job_table([JOBS["training"]], NOW), 80).splitlines()

    assert head.split() == ["NAME", "STATE", "PROGRESS", "STEP", "LOSS", "ETA", "GPUS", "MODEL", "AGE"]
    assert row == "support-bot   Training        42%   54/128   1.2764   6m10s     16   Hugg…   30m"


def test_a_list_is_in_order_of_namespace_and_name() -> None:
    rows = as_text(job_table(list(reversed(JOBS.values())), NOW, all_namespaces=True), 200).splitlines()[1:]

    assert [tuple(row.split()[:2]) for row in rows] == sorted(tuple(row.split()[:2]) for row in rows)


def test_a_watch_draws_the_losses_it_has_seen() -> None:
    assert_same(as_text(picture(followed(54), 100, 40, NOW)), FOLDER / "watch-training.txt")


@pytest.mark.parametrize("state", JOBS)
def test_a_watch_of_every_state(state: str) -> None:
    seen = Seen({}, trouble="the API server does not answer; trying again").with_job(JOBS[state])

    assert seen.trouble == ""
    assert_same(as_text(picture(seen, 100, 40, NOW)), FOLDER / f"watch-{state}-at-once.txt")


def test_a_watch_fits_a_small_terminal() -> None:
    for height in (6, 10, 14, 24):
        assert len(as_text(picture(followed(54), 60, height, NOW), 60).splitlines()) <= max(height, 6)


def test_an_attempt_that_starts_anew_takes_back_the_later_steps() -> None:
    seen = followed(20)
    again = job("support-bot", status=TRAINING)
    again["status"]["progress"] |= {"step": 5, "loss": "1.9"}

    seen = seen.with_job(again)

    assert [step for step, _ in seen.losses] == [1, 2, 3, 4, 5]
    assert all(step <= 5 for step, _ in seen.held_out)


def test_points_that_a_status_left_out_are_added() -> None:
    seen = Seen({}).with_job(job("a", status=TRAINING))
    later = job("a", status=TRAINING)
    later["status"]["progress"] |= {"step": 60, "loss": "1.1"}

    seen = seen.with_job(later)

    assert (Seen({}).missing, seen.missing) == (0, 5)
    seen = seen.with_losses(((54.0, 1.3), *((float(step), 1.2) for step in range(55, 60))), ((50.0, 1.5),))
    assert [step for step, _ in seen.losses] == [54, 55, 56, 57, 58, 59, 60]
    assert seen.losses[0] == (54.0, 1.3)
    assert seen.held_out[0] == (50.0, 1.5)
    assert seen.missing == 0


def test_a_message_of_several_lines_is_one_line_of_a_log() -> None:
    failure = FAILED["failure"] | {"message": "rows.jsonl:1: empty\nrows.jsonl:9: no JSON"}

    text = line(job("legal", status=FAILED | {"failure": failure}))

    assert "rows.jsonl:1: empty rows.jsonl:9: no JSON" in text


def test_plain_lines_of_every_state() -> None:
    assert_same("".join(f"{line(one)}\n" for one in JOBS.values()), FOLDER / "lines.txt")


@pytest.mark.parametrize(
    ("failure", "code"),
    [({"class": "DataError"}, 11), ({"class": "PodLost"}, 20), ({"class": "Novel"}, 20), ({}, 20)],
)
def test_the_exit_code_of_a_failed_job_is_that_of_its_class(failure: Object, code: int) -> None:
    assert jobview.exit_code_of(job("a", status=FAILED | {"failure": failure})) == code
    assert jobview.exit_code_of(JOBS["complete"]) == 0


def test_what_a_profile_gave_counts_as_the_jobs_own() -> None:
    given = {"resources": {"nodes": 3, "cpu": "8"}, "output": {"destination": "s3://models/{namespace}"}}
    spec = {"node": {"gpus": 4, "memory": "64Gi"}, "defaults": given | {"method": {"dpo": {"beta": "0.2"}}}}
    under = job("a", status={"plan": {"profile": {"name": "small", "generation": 1, "spec": spec}}})
    under["spec"] |= {"resources": {}, "output": {}}
    assert (jobview.nodes_of(under), jobview.gpus_of(under), jobview.processes_per_node(under)) == (3, 12, 4)
    shown = jobview.with_defaults(under)["spec"]
    assert {"nodes": 3, "cpu": "8", "memory": "64Gi", "gpusPerNode": 4}.items() <= shown["resources"].items()
    assert shown["output"]["destination"] == "s3://models/team-a"
    assert "dpo" not in shown["method"], "what means nothing to the job is passed over"
