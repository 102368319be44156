"""Commands against an API server with prepared answers: what they ask, print and how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_cli.cluster import watching
from support.answering_server import Answer, Answers, refused, write_kubeconfig
from support.command_line import CommandLine
from support.shown_jobs import COMPLETE, FAILED, TRAINING, job

JOBS = "/apis/finetune.dev/v1alpha1/finetunejobs"
TEAM_A = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs"
EVENTS = "/apis/events.k8s.io/v1/namespaces/team-a/events"


def listed(*items: dict[str, Any], following: str = "") -> Answer:
    return Answer({"kind": "FineTuneJobList", "metadata": {"continue": following}, "items": list(items)})


def test_list_asks_for_the_namespace_of_the_context(connected: CommandLine, api: Answers) -> None:
    api.give(f"GET {TEAM_A}", listed(job("b"), job("a", status=TRAINING)))

    ended = connected("list")

    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == ["NAME", "a", "b"]
    assert all(line == line.rstrip() for line in ended.out.splitlines())


def test_list_reads_all_pages_of_all_namespaces(connected: CommandLine, api: Answers) -> None:
    api.give(f"GET {JOBS}", listed(job("a"), following="page2"), listed(job("b", "team-b")))

    ended = connected("list", "-A", "-l", "team=a", "-o", "name")

    assert ended.out == "finetunejobs.finetune.dev/a\nfinetunejobs.finetune.dev/b\n"
    assert [request.query for request in api.requests] == [
        "limit=500&labelSelector=team%3Da",
        "limit=500&labelSelector=team%3Da&continue=page2",
    ]


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_list_as_a_document(connected: CommandLine, api: Answers, form: str, read: Any) -> None:
    api.give(f"GET {TEAM_A}", listed(job("a", status=COMPLETE)))

    document = read(connected("list", "-o", form).out)

    assert (document["kind"], document["items"]) == ("List", [job("a", status=COMPLETE)])


def test_an_empty_list_says_so_beside_the_output(connected: CommandLine, api: Answers) -> None:
    api.give(f"GET {TEAM_A}", listed())

    ended = connected("list")

    assert (ended.code, ended.out, ended.err) == (0, "", "No FineTuneJobs found in namespace team-a.\n")


def test_describe_shows_the_events_of_this_very_job(connected: CommandLine, api: Answers) -> None:
    api.give(f"GET {TEAM_A}/support-bot", Answer(job("support-bot", status=FAILED)))
    about = {"reason": "PrepareFailed", "type": "Warning", "note": "ours", "regarding": {"uid": "uid-of-support-bot"}}
    other = about | {"note": "of an earlier job of the name", "regarding": {"uid": "another"}}
    api.give(f"GET {EVENTS}", Answer({"items": [about, other]}))

    ended = connected("describe", "support-bot")

    assert ended.code == 0
    assert "Add an assistant turn" in ended.out
    assert "ours" in ended.out
    assert "earlier job" not in ended.out


def test_describe_does_without_the_right_to_read_events(connected: CommandLine, api: Answers) -> None:
    api.give(f"GET {TEAM_A}/support-bot", Answer(job("support-bot", status=COMPLETE)))
    api.give(f"GET {EVENTS}", refused(403, "Forbidden", "no"))

    ended = connected("describe", "support-bot")

    assert ended.code == 0
    assert "may not be read with your rights" in ended.out


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "INTERVAL_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_watch_survives_hiccups_and_ends_with_the_job(connected: CommandLine, api: Answers) -> None:
    running, done = (Answer(job("support-bot", status=status)) for status in (TRAINING, COMPLETE))
    busy = refused(429, "TooManyRequests", "slow down")
    api.give(f"GET {TEAM_A}/support-bot", running, running, busy, Answer("proxy error", 502), running, done)

    ended = connected("watch", "support-bot")

    assert ended.code == 0
    assert [line.split()[1] for line in ended.out.splitlines()] == ["Training", "Complete"]
    assert ended.err.count("trying again") == 1


@pytest.mark.usefixtures("at_once")
def test_watch_of_a_failed_job_exits_with_its_class(connected: CommandLine, api: Answers) -> None:
    api.give(f"GET {TEAM_A}/support-bot", Answer(job("support-bot", status=FAILED)))

    ended = connected("watch", "support-bot")

    assert ended.code == 11
    assert "Add an assistant turn" in ended.out


@pytest.mark.usefixtures("at_once")
def test_watch_ends_with_its_timeout_and_the_job_goes_on(connected: CommandLine, api: Answers) -> None:
    api.give(f"GET {TEAM_A}/support-bot", Answer(job("support-bot", status=TRAINING)))

    ended = connected("watch", "support-bot", "--timeout", "0.001s")

    assert ended.code == 5
    assert "support-bot is still Training at the end of --timeout; it goes on" in ended.err


@pytest.mark.usefixtures("at_once")
def test_a_job_that_has_ended_needs_no_time(connected: CommandLine, api: Answers) -> None:
    api.give(f"GET {TEAM_A}/support-bot", Answer(job("support-bot", status=COMPLETE)))

    assert connected("watch", "support-bot", "--timeout", "0.001s").code == 0


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("again", [None, "another uid"])
def test_watch_of_a_deleted_job_says_what_is_kept(connected: CommandLine, api: Answers, again: str | None) -> None:
    first = job("support-bot", status=TRAINING)
    gone = refused(404, "NotFound", "gone", name="support-bot", kind="finetunejobs")
    second = Answer(first | {"metadata": first["metadata"] | {"uid": again}}) if again else gone
    api.give(f"GET {TEAM_A}/support-bot", Answer(first), second)

    ended = connected("watch", "support-bot")

    assert ended.code == 4
    assert "was deleted while it was Training; what it published is kept at s3://team-models/support" in ended.err


REFUSALS = {
    "no such job": (
        refused(404, "NotFound", "not found", name="x", kind="finetunejobs"),
        4,
        "there is no FineTuneJob 'x' in namespace 'team-a'; kubectl finetune list -A",
    ),
    "no CRD": (Answer("404 page not found\n", 404), 3, "this cluster does not know the kind FineTuneJob; install it:"),
    "forbidden": (refused(403, "Forbidden", "user is not allowed"), 3, "you may not get finetunejobs in namespace"),
    "unauthorized": (refused(401, "Unauthorized", "Unauthorized"), 3, "does not accept your credentials; log in again"),
    "broken": (Answer("<html>oops</html>", 500), 3, "the API server answered with 500: <html>oops"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_sentence_with_its_remedy(connected: CommandLine, api: Answers, case: str) -> None:
    answer, code, text = REFUSALS[case]
    api.give(f"GET {TEAM_A}/x", answer)

    ended = connected("describe", "x")

    assert (ended.code, ended.out) == (code, "")
    assert text in ended.err
    assert "Traceback" not in ended.err


def test_an_api_server_that_does_not_answer(cli: CommandLine, tmp_path: Path) -> None:
    file = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:9")

    ended = cli("list", "--kubeconfig", str(file))

    assert ended.code == 3
    assert "the API server at http://127.0.0.1:9 does not answer" in ended.err
    assert "Connection refused" in ended.err
    assert "0x" not in ended.err


@pytest.mark.parametrize(
    "content", [None, "", "a: [", "[]", "apiVersion: v1\nkind: Config\n", "current-context: x\ncontexts: 7\n"]
)
def test_a_kubeconfig_that_cannot_be_used(cli: CommandLine, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)

    ended = cli("list", "--kubeconfig", str(file))

    assert (ended.code, ended.out) == (3, "")
    assert ended.err.startswith("error: no way to a cluster: ")
    assert "--kubeconfig" in ended.err


def test_a_context_that_does_not_exist(connected: CommandLine) -> None:
    ended = connected("list", "--context", "nowhere")

    assert ended.code == 3
    assert "nowhere" in ended.err


def test_several_kubeconfigs_are_one(
    cli: CommandLine, api: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_kubeconfig(tmp_path / "first", "http://127.0.0.1:9", "first")
    second = write_kubeconfig(tmp_path / "second", api.address, "second", "team-b")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}:{tmp_path / 'absent'}")
    api.give("GET /apis/finetune.dev/v1alpha1/namespaces/team-b/finetunejobs", listed(job("b", "team-b")))
    api.give("GET /apis/finetune.dev/v1alpha1/namespaces/other/finetunejobs", listed(job("c", "other")))

    assert "b" in cli("list", "--context", "second").out.split()
    assert "c" in cli("list", "--context", "second", "-n", "other").out.split()


def test_a_name_cannot_leave_its_place_in_the_path(connected: CommandLine, api: Answers) -> None:
    connected("describe", "../../../../secrets/x")

    assert [request.path for request in api.requests] == [f"{TEAM_A}/..%2F..%2F..%2F..%2Fsecrets%2Fx"]


@pytest.mark.usefixtures("at_once")
def test_watch_in_a_terminal_draws_the_curve_from_the_beginning(
    connected: CommandLine, api: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The log of rank 0 tells what was trained before the watch began.
    pods = "/api/v1/namespaces/team-a/pods"
    labels = {"finetune.dev/stage": "train", "finetune.dev/attempt": "2"}
    api.give(f"GET {pods}", Answer({"items": [{"metadata": {"name": "rank-0", "labels": labels}}]}))
    log = "".join(f"step {step}/128  loss {3 - step / 50:.4f}  lr 1e-4\n" for step in range(1, 54))
    # And what was trained between two reports, of which a status tells one only.
    between = "step 80/128  loss 7.7000  lr 1e-4\n"
    api.give(f"GET {pods}/rank-0/log", Answer(log), Answer(between))
    running, later, done = (Answer(job("support-bot", status=status)) for status in (TRAINING, TRAINING, COMPLETE))
    assert isinstance(later.body, dict)
    later.body["status"]["progress"] |= {"step": 100}
    api.give(f"GET {TEAM_A}/support-bot", running, later, done)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")

    ended = connected("watch", "support-bot")

    assert ended.code == 0
    assert "2.9800" in ended.out, "the loss of the first step is the top of the curve"
    assert "7.7000" in ended.out
    assert "verified " in ended.out
    assert "\x1b[" in ended.out


def test_an_interrupted_watch_ends_quietly(api: Answers, tmp_path: Path) -> None:
    api.give(f"GET {TEAM_A}/support-bot", Answer(job("support-bot", status=TRAINING)))
    file = write_kubeconfig(tmp_path / "config", api.address, namespace="team-a")
    command = [sys.executable, "-m", "finetune_cli", "watch", "support-bot", "--kubeconfig", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "Training" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_pod_without_a_service_account(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "9")

    ended = cli("list")

    assert ended.code == 3
    assert ended.err.startswith("error: no way to a cluster: Service")


def test_a_reader_that_goes_away_is_no_error(api: Answers, tmp_path: Path) -> None:
    api.give(f"GET {TEAM_A}", listed(*(job(f"job-{number}") for number in range(3000))))
    file = write_kubeconfig(tmp_path / "config", api.address, namespace="team-a")
    command = f"{sys.executable} -m finetune_cli list -o yaml --kubeconfig {file} | head -n 1"

    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)

    assert (result.stdout, result.stderr) == ("apiVersion: v1\n", "")
