"""plot, report, artifacts and compare, over artifacts in a folder store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.uris import S3Location
from finetune_cli.errors import DamagedArtifactError, StoreError
from finetune_cli.render.curves import Series, chart, dots, frame_of
from finetune_cli.store.artifact import PublishedArtifact, find_artifact
from finetune_cli.store.folder import FolderStore
from finetune_cli.store.metrics import parse_metrics
from finetune_cli.store.transfer import download
from support.answering_server import Answer, Answers, refused
from support.command_line import CommandLine
from support.published import BUCKET, Published, publish
from support.rendered import assert_same
from support.shown_jobs import FAILED, RUN_ID, job

FOLDER = Path(__file__).parent / "shown"
TEAM_A = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs"


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish(tmp_path / "store")


@pytest.fixture
def of_job(published: Published, api: Answers) -> Published:
    """The artifact, and its job on the cluster."""
    api.give(f"GET {TEAM_A}/support-bot", Answer(published.job()))
    return published


def test_artifacts_of_a_run_and_of_the_newest_run_of_a_job(cli: CommandLine, published: Published) -> None:
    for uri in (published.uri, published.job_uri, f"{published.job_uri}/"):
        ended = cli("artifacts", "list", uri, "--store", published.store)

        assert ended.code == 0
        names = [line.split()[0] for line in ended.out.splitlines()]
        assert names == ["FILE", *published.files, "4"]
        assert ended.err == f"{published.uri}\n"


def test_artifacts_of_a_job_by_its_name(connected: CommandLine, of_job: Published) -> None:
    document = json.loads(connected("artifacts", "list", "support-bot", "--store", of_job.store, "-o", "json").out)

    assert document["uri"] == of_job.uri
    assert document["manifestDigest"] == of_job.job()["status"]["artifact"]["manifestDigest"]
    assert [file["name"] for file in document["files"]] == list(of_job.files)


def test_verify_reads_everything_again(connected: CommandLine, of_job: Published) -> None:
    ended = connected("artifacts", "verify", "support-bot", "--store", of_job.store)

    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"{of_job.uri} is intact: 4 files, ")


def test_verify_names_every_fault(connected: CommandLine, of_job: Published) -> None:
    changed = bytearray(of_job.files["adapter_model.safetensors"])
    changed[7] ^= 1
    (of_job.folder / "adapter_model.safetensors").write_bytes(changed)
    (of_job.folder / "report.html").unlink()
    (of_job.folder / "metrics.jsonl").write_bytes(b"{}")
    manifest = json.loads(of_job.manifest) | {"created": "later"}
    (of_job.folder / "manifest.json").write_text(json.dumps(manifest))

    ended = connected("artifacts", "verify", "support-bot", "--store", of_job.store)

    assert ended.code == 19
    assert ended.err.splitlines()[1:] == [
        "* adapter_model.safetensors has another SHA-256 than the manifest says",
        f"* metrics.jsonl has 2 bytes instead of {len(of_job.files['metrics.jsonl'])}",
        "* report.html is missing",
        "* manifest.json is not the one that the job's status names",
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_download_and_verify_here(cli: CommandLine, published: Published, tmp_path: Path) -> None:
    target = tmp_path / "here"

    ended = cli("artifacts", "download", published.uri, "--store", published.store, "-o", str(target))

    assert (ended.code, ended.out) == (0, f"{target}\n")
    assert contents(target) == published.files | {"manifest.json": published.manifest}
    assert cli("artifacts", "verify", str(target)).out.startswith(f"{target} is intact: 4 files")
    (target / "report.html").write_bytes(b"x")
    assert cli("artifacts", "verify", str(target)).code == 19


def artifact_of(published: Published) -> tuple[FolderStore, PublishedArtifact]:
    store = FolderStore(published.root)
    return store, find_artifact(store, S3Location(BUCKET, f"team-a/support-bot/{RUN_ID}"))


class Breaking(FolderStore):
    """A store whose connections break after some bytes, so many times."""

    def __init__(self, root: Path, breaks: int, after: int) -> None:
        super().__init__(root)
        self.breaks, self.after = breaks, after
        self.starts: list[int] = []

    def chunks(self, location: S3Location, start: int = 0) -> Iterator[bytes]:
        self.starts.append(start)
        content = b"".join(super().chunks(location, start))
        if location.key.endswith("safetensors") and self.breaks:
            self.breaks -= 1
            yield content[: self.after]
            raise StoreError("the connection broke")
        yield content


def test_a_download_goes_on_where_a_connection_broke(published: Published, tmp_path: Path) -> None:
    _, artifact = artifact_of(published)
    store, moved = Breaking(published.root, breaks=2, after=1000), list[int]()

    fetched = download(store, artifact, tmp_path / "here", moved.append)

    assert store.starts[:3] == [0, 1000, 2000]
    assert fetched == sum(moved) == artifact.total_bytes
    assert contents(tmp_path / "here") == published.files | {"manifest.json": published.manifest}


def test_a_download_that_brings_nothing_ends_and_goes_on_when_it_is_started_again(
    published: Published, tmp_path: Path
) -> None:
    store, artifact = artifact_of(published)
    name, here = "adapter_model.safetensors", tmp_path / "here"
    with pytest.raises(StoreError, match="broke"):
        download(Breaking(published.root, breaks=9, after=0), artifact, here, lambda _: None)
    (here / f"{name}.partial").write_bytes(published.files[name][:5000])

    fetched = download(store, artifact, here, lambda _: None)

    assert fetched == artifact.total_bytes - 5000
    assert download(store, artifact, here, lambda _: None) == 0
    assert contents(here) == published.files | {"manifest.json": published.manifest}


@pytest.mark.parametrize("before", [b"x" * 5000, b"x" * 20_000])
def test_a_partial_file_of_something_else_never_becomes_the_file(
    published: Published, tmp_path: Path, before: bytes
) -> None:
    store, artifact = artifact_of(published)
    here = tmp_path / "here"
    here.mkdir()
    (here / "adapter_model.safetensors.partial").write_bytes(before)
    try:
        download(store, artifact, here, lambda _: None)
    except DamagedArtifactError:
        download(store, artifact, here, lambda _: None)

    assert contents(here) == published.files | {"manifest.json": published.manifest}


def test_a_folder_that_cannot_be_made(cli: CommandLine, published: Published, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ended = cli(
        "artifacts", "download", published.uri, "--store", published.store, "-o", str(tmp_path / "file" / "here")
    )

    assert ended.code == 2
    assert "cannot be made: Not a directory; name another with --output" in ended.err


def test_two_artifacts_do_not_mix(cli: CommandLine, published: Published, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "manifest.json").write_text("{}")

    ended = cli("artifacts", "download", published.uri, "--store", published.store, "-o", str(tmp_path / "here"))

    assert ended.code == 2
    assert "holds another artifact" in ended.err


@pytest.mark.parametrize("name", ["../../outside", "/absolute", "a/../../b", "", "..\\b"])
def test_a_manifest_cannot_lead_out_of_the_folder(
    cli: CommandLine, published: Published, tmp_path: Path, name: str
) -> None:
    manifest = json.loads(published.manifest)
    manifest["files"][0]["name"] = name
    (published.folder / "manifest.json").write_text(json.dumps(manifest))

    ended = cli("artifacts", "download", published.uri, "--store", published.store, "-o", str(tmp_path / "here"))

    assert ended.code == 19
    assert "lists a file that cannot be one" in ended.err


@pytest.mark.parametrize(
    ("reference", "code", "text"),
    [
        ("s3://results/nothing", 14, "nothing is published at s3://results/nothing"),
        ("hf://org/model", 2, "is no artifact: use s3://bucket/prefix"),
        ("./nowhere", 2, "./nowhere: there is no such folder"),
    ],
)
def test_what_is_no_artifact(cli: CommandLine, published: Published, reference: str, code: int, text: str) -> None:
    ended = cli("artifacts", "list", reference, "--store", published.store)

    assert ended.code == code
    assert text in ended.err


def test_a_job_that_has_published_nothing(connected: CommandLine, api: Answers) -> None:
    api.give(f"GET {TEAM_A}/legal", Answer(job("legal", status=FAILED)))

    ended = connected("artifacts", "verify", "legal")

    assert ended.code == 4
    assert "legal has published nothing: it is Failed" in ended.err


def test_plot(cli: CommandLine, published: Published) -> None:
    ended = cli("plot", published.uri, "--store", published.store)

    assert ended.code == 0
    assert_same(ended.out.replace(str(published.root), ""), FOLDER / "plot.txt")


def test_a_plot_for_another_character_set(published: Published) -> None:
    command = [sys.executable, "-m", "finetune_cli", "plot", published.uri, "--store", published.store]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "??" in ended.stdout


def test_plot_for_machines_after_the_job_is_gone(cli: CommandLine, published: Published) -> None:
    ended = cli("plot", published.job_uri, "--store", published.store, "--metric", "tokensPerSecond", "-o", "json")

    document = json.loads(ended.out)
    assert (document["steps"][0], document["evaluations"]) == ({"step": 1, "value": 200.0}, [])


def test_plot_of_what_was_not_measured_names_what_was(cli: CommandLine, published: Published) -> None:
    ended = cli("plot", published.uri, "--store", published.store, "--metric", "joy")

    assert ended.code == 2
    assert "the run has loss, learningRate, seconds, tokenAccuracy, tokens, tokensPerSecond" in ended.err


def test_metrics_that_were_cut_off_are_read_as_far_as_they_go() -> None:
    found = parse_metrics(b'{"kind":"step","step":1,"loss":2.0}\n{"kind":"step","step":1,"loss":1.5}\n[]\n{"kind":"st')

    assert found.steps == {"loss": ((1.0, 1.5),)}
    assert parse_metrics(b"").names == ()


def test_report(cli: CommandLine, published: Published, tmp_path: Path) -> None:
    target = tmp_path / "report.html"

    ended = cli("report", published.job_uri, "--store", published.store, "--file", str(target))

    assert (ended.code, ended.out) == (0, f"{target}\n")
    assert target.read_bytes() == published.files["report.html"]


def test_compare_two_jobs(connected: CommandLine, of_job: Published, api: Answers) -> None:
    other = publish(of_job.root, "other", fall=9.0)
    method = {"objective": "sft", "tuning": "lora", "lora": {"rank": 64, "alpha": 32}}
    api.give(f"GET {TEAM_A}/other", Answer(other.job(method=method)))

    ended = connected("compare", "support-bot", "other", "--store", of_job.store)

    assert (ended.code, ended.err) == (0, "")
    assert_same(ended.out, FOLDER / "compare-jobs.txt")


def test_compare_a_job_with_an_artifact_whose_job_is_gone(connected: CommandLine, of_job: Published) -> None:
    other = publish(of_job.root, "other", rank=8)

    ended = connected("compare", "support-bot", other.uri, "--store", of_job.store)

    rows = [line.split() for line in ended.out.splitlines()]
    assert ["method.lora.rank", "16", "8"] in rows
    assert not any(row and row[0].startswith("hyperparameters") for row in rows)


def test_compare_jobs_without_their_curves(connected: CommandLine, of_job: Published, api: Answers) -> None:
    api.give(f"GET {TEAM_A}/legal", Answer(job("legal", status=FAILED)))
    api.give(f"GET {TEAM_A}/gone", refused(404, "NotFound", "", name="gone", kind="finetunejobs"))

    ended = connected("compare", "support-bot", "legal", "--store", of_job.store)

    assert ended.code == 0
    assert "without the loss curve of legal: legal has published nothing" in ended.err
    assert connected("compare", "support-bot", "gone").code == 4


@pytest.mark.parametrize(
    "points", [(), ((1.0, 2.0),), ((1.0, 2.0), (2.0, 2.0)), ((0.0, float("nan")), (1.0, 1.0), (2.0, float("inf")))]
)
def test_a_chart_of_few_or_odd_points(points: tuple[tuple[float, float], ...]) -> None:
    drawn = chart([Series("loss", points, "cyan")], 60, 8)

    assert len(drawn) == (11 if points else 0)
    assert all(len(text.plain) <= 60 for text in drawn)


def test_a_spike_among_many_points_does_not_stretch_the_frame() -> None:
    points = tuple((float(step), 9.0 if step == 500 else 1.0 + step % 2) for step in range(1000))

    frame = frame_of([Series("loss", points, "cyan")], 10, 5)

    assert (frame.left, frame.right) == (0, 999)
    assert frame.top < 2, "the top is the highest mean that is drawn"


def test_a_curve_goes_through_its_points_and_joins_them() -> None:
    series = Series("loss", ((0.0, 0.0), (10.0, 1.0)), "cyan")
    frame = frame_of([series], 10, 5)

    found = dots(series, frame)

    assert {(0, frame.down - 1), (frame.across - 1, 0)} <= found
    assert {column for column, _ in found} == set(range(frame.across))
