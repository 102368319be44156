"""What a shell offers: commands, options, and names that the cluster and the kubeconfig know."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_cli.main import app, complete_for_kubectl
from support.answering_server import Answer, Answers, refused, write_kubeconfig
from support.shown_jobs import TRAINING, job

Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complete:
    """Offers for an unfinished command line, as bash asks for them."""

    def ask(line: str) -> list[str]:
        monkeypatch.setenv("_FINETUNE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(shlex.split(line + "x")) - 1))
        with pytest.raises(SystemExit):
            app(prog_name="finetune")
        return capsys.readouterr().out.split()

    return ask


def test_commands_and_options(complete: Complete) -> None:
    assert {"list", "watch", "artifacts"} <= set(complete("finetune "))
    assert complete("finetune sus") == ["suspend"]
    assert complete("finetune artifacts v") == ["verify"]
    assert "--all-namespaces" in complete("finetune list --a")


@pytest.mark.usefixtures("connected")
def test_names_of_jobs_of_the_namespace_that_is_named(complete: Complete, api: Answers) -> None:
    jobs = Answer({"items": [job("support-bot", status=TRAINING), job("support-2"), job("legal")]})
    api.give("GET /apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs", jobs)
    api.give("GET /apis/finetune.dev/v1alpha1/namespaces/team-b/finetunejobs", Answer({"items": [job("other")]}))

    assert complete("finetune watch support") == ["support-bot", "support-2"]
    assert complete("finetune describe -n team-b ") == ["other"]
    assert complete("finetune artifacts download l") == ["legal"]


@pytest.mark.usefixtures("connected")
def test_a_cluster_that_cannot_be_asked_offers_nothing(complete: Complete, api: Answers) -> None:
    api.give("GET /apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs", refused(403, "Forbidden", "no"))

    assert complete("finetune watch ") == []


@pytest.mark.usefixtures("connected")
def test_contexts_of_the_kubeconfig(complete: Complete, tmp_path: Path) -> None:
    other = write_kubeconfig(tmp_path / "other", "http://127.0.0.1:9", "production")

    assert complete("finetune list --context t") == ["test"]
    assert complete(f"finetune list --kubeconfig {other} --context p") == ["production"]
    assert complete("finetune list --kubeconfig /nonexistent --context p") == []


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(
    ("words", "offered"),
    [(["watch", ""], ["legal", ":4"]), (["plan", "exam"], [":0"])],
    ids=["words", "none, so that the shell offers files"],
)
def test_kubectl_asks_its_own_way(
    words: list[str],
    offered: list[str],
    api: Answers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api.give("GET /apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs", Answer({"items": [job("legal")]}))
    for name in ("_FINETUNE_COMPLETE", "COMP_WORDS", "COMP_CWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-finetune", *words])

    with pytest.raises(SystemExit):
        complete_for_kubectl()

    assert capsys.readouterr().out.split() == offered
