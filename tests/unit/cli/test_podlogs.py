"""Which pod's log is meant, and which of its lines."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.outcomes import Stage
from finetune_cli.cluster.history import losses_in
from finetune_cli.cluster.podlogs import Source, Wanted, lines, of_rank, source_of
from finetune_cli.errors import MissingObjectError, UsageError
from finetune_trainer.main import log_format
from finetune_trainer.training.metrics import StepMetrics, log_line
from support import builders
from support.answering_server import Answer, Answers, refused
from support.command_line import CommandLine
from support.shown_jobs import FAILED, TRAINING, job

TEAM_A = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs"
PODS = "/api/v1/namespaces/team-a/pods"


def pod(stage: Stage, attempt: int, index: int = 0, created: float = 0, name: str = "") -> dict[str, Any]:
    document = builders.pod(stage, attempt, index, created=created)
    document["metadata"]["name"] = name or f"{stage.value}-{attempt}-{index}"
    return document | {"spec": {"nodeName": f"node-{index}"}}


GANG = [pod(Stage.PREPARE, 1), *(pod(Stage.TRAIN, attempt, index) for attempt in (1, 2) for index in (0, 1))]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (Wanted(), "train-2-0"),
        (Wanted(rank=7), "train-2-0"),
        (Wanted(rank=8), "train-2-1"),
        (Wanted(rank=15, attempt=1), "train-1-1"),
        (Wanted(stage=Stage.PREPARE), "prepare-1-0"),
    ],
)
def test_the_pod_of_a_rank(wanted: Wanted, name: str) -> None:
    assert source_of(job("a"), GANG, wanted).pod == name


def test_the_newest_pod_of_a_repeated_prepare() -> None:
    pods = [pod(Stage.PREPARE, 1, created=9, name="second"), pod(Stage.PREPARE, 1, created=5, name="first")]

    assert source_of(job("a"), pods, Wanted()).pod == "second"


def test_while_the_next_attempt_prepares_its_prepare_pod_is_the_newest() -> None:
    assert source_of(job("a"), [*GANG, pod(Stage.PREPARE, 3)], Wanted()).pod == "prepare-3-0"


def test_the_title_says_where_and_whose() -> None:
    source = source_of(job("a"), GANG, Wanted(rank=9))

    assert source == Source("train-2-1", Stage.TRAIN, 2, "node-1", 9)
    assert source.title == "train-2-1 on node-1: train, attempt 2, lines of rank 9"


def test_a_rank_that_is_alone_in_its_pod_has_all_lines() -> None:
    assert source_of(job("a", gpusPerNode=1), GANG, Wanted(rank=1)).rank is None


@pytest.mark.parametrize("rank", [16, 99])
def test_a_rank_that_the_job_does_not_have(rank: int) -> None:
    with pytest.raises(UsageError, match="has the ranks 0 to 15"):
        source_of(job("a"), GANG, Wanted(rank=rank))


@pytest.mark.parametrize(
    ("status", "pods", "wanted", "text"),
    [
        (TRAINING, GANG, Wanted(attempt=3), "there are pods of attempt 1, 2"),
        (FAILED, [], Wanted(), "the pods of a are gone; kubectl finetune describe a says how it ended"),
        (None, [], Wanted(), "a has no train pod yet: Pending, the operator has not seen this job yet"),
    ],
)
def test_a_pod_that_is_not_there(
    status: dict[str, Any] | None, pods: list[dict[str, Any]], wanted: Wanted, text: str
) -> None:
    with pytest.raises(MissingObjectError, match=text):
        source_of(job("a", status=status), pods, wanted)


def test_lines_come_whole_from_pieces_of_any_size() -> None:
    assert list(lines([b"on", b"e\ntw", b"o\n\nlast"])) == [b"one\n", b"two\n", b"\n", b"last\n"]
    assert list(lines([])) == []


def test_lines_of_other_ranks_are_left_out() -> None:
    tag = {rank: log_format({"RANK": str(rank)}).replace("%", "").encode() for rank in (1, 10)}
    log = [b"torchrun starts\n", tag[1], tag[10]]

    assert list(of_rank(log, 1)) == log[:2]
    assert list(of_rank(log, 10)) == [log[0], log[2]]
    assert list(of_rank(log, None)) == log


def test_the_prepare_stage_and_the_main_process_have_no_rank() -> None:
    assert "rank" not in log_format({})


def test_losses_are_read_from_what_the_trainer_prints() -> None:
    steps = [StepMetrics(step, 10, 0.1, 2.5 / step, 1e-4, 1.0, 100, 1.0) for step in (1, 2, 3, 2)]
    log = [f"{log_line(metrics)}\n".encode() for metrics in steps]
    log.insert(2, b"held-out loss 1.5000 after step 2\n")

    assert losses_in(log) == (((1, 2.5), (2, 1.25), (3, 0.8333)), ((2, 1.5),))
    assert losses_in([b"nothing of that kind\n"]) == ((), ())


@pytest.fixture
def running(api: Answers) -> Answers:
    document = job("a", status=TRAINING)
    api.give(f"GET {TEAM_A}/a", Answer(document))
    api.give(f"GET {PODS}", Answer({"items": GANG}))
    api.give(f"GET {PODS}/train-2-1/log", Answer("I [rank 8] x\nI [rank 9] y\nstarted\n"))
    return api


def test_the_command_prints_the_lines_and_says_whose(connected: CommandLine, running: Answers) -> None:
    ended = connected("logs", "a", "--rank", "9", "--tail", "100")

    assert (ended.code, ended.out) == (0, "I [rank 9] y\nstarted\n")
    assert ended.err == "train-2-1 on node-1: train, attempt 2, lines of rank 9\n"
    assert running.requests[-1].query == "tailLines=100"
    assert "finetune.dev%2Fjob-uid%3Duid-of-a" in running.requests[1].query


def test_a_pod_that_has_not_started(connected: CommandLine, running: Answers) -> None:
    waiting = 'container "trainer" in pod "train-2-1" is waiting to start: ContainerCreating'
    running.give(f"GET {PODS}/train-2-1/log", refused(400, "BadRequest", waiting))

    ended = connected("logs", "a", "--rank", "8", "-f")

    assert ended.code == 4
    assert f"there is no log yet: {waiting}" in ended.err


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--previous",), 4, "no train pod of attempt 1"),
        (("--previous", "--attempt", "1"), 2, "use one of them"),
        (("--rank", "16"), 2, "has the ranks 0 to 15"),
    ],
)
def test_what_cannot_be_shown(
    connected: CommandLine, running: Answers, options: tuple[str, ...], code: int, text: str
) -> None:
    running.give(f"GET {PODS}", Answer({"items": GANG[3:]}))

    ended = connected("logs", "a", *options)

    assert ended.code == code
    assert text in ended.err
