"""The same run on an S3 server: source, ledger and dataset are objects, reached as the manifest says."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.laptop import Laptop
from support.manifests import echo, merged
from support.pages import commands
from support.runs import small_run
from support.s3 import S3
from support.shell import Shell, path_with
from support.tools import put_tool
from support.waiting import wait_until


def on_s3(laptop: Laptop, s3: S3, **spec: Any) -> None:  # noqa: ANN401 - YAML values
    """The small run, its source uploaded, its output beside it."""
    base = {
        "source": {"uri": s3.uri("source"), "storage": s3.storage},
        "output": {"uri": s3.uri("output"), "storage": s3.storage},
        "durability": {"heartbeatSeconds": 2, "leaseSeconds": 6, "checkpointSeconds": 1},
    }
    small_run(laptop, **merged(base, spec))
    for path in laptop.source.iterdir():
        key = f"{s3.prefix}/source/{path.name}"
        s3.client().upload_file(Filename=str(path), Bucket=s3.bucket, Key=key)


def commits(s3: S3) -> list[str]:
    return [name for name in s3.listed("output") if "/commits/" in name]


def verify_arguments(s3: S3) -> list[str]:
    return ["verify", s3.uri("output"), "--endpoint", s3.endpoint, "--region", "us-east-1"]


def test_a_run_on_s3_makes_the_same_dataset_as_on_a_folder(
    laptop: Laptop, s3: S3, undisturbed: Laptop
) -> None:
    on_s3(laptop, s3)

    ended = laptop.run("--workers", "2", environment=s3.credentials)

    assert ended.code == 0, ended.said
    assert_same(laptop, s3, undisturbed)


@pytest.mark.full
def test_a_run_on_s3_that_loses_power_ends_with_the_same_dataset(
    laptop: Laptop, s3: S3, undisturbed: Laptop
) -> None:
    on_s3(laptop, s3, model=echo(concurrency=32, latency=0.2))
    laptop.start_run("--workers", "2", environment=s3.credentials)
    wait_until(lambda: len(commits(s3)) >= 3, "3 units are committed", within=120)
    laptop.lose_power()

    ended = laptop.run("--workers", "2", environment=s3.credentials)

    assert ended.code == 0, ended.said
    assert_same(laptop, s3, undisturbed)


def assert_same(laptop: Laptop, s3: S3, undisturbed: Laptop) -> None:
    """The output is sound, and its rewrites are those of the run on a folder."""
    verified = laptop.rephrase(*verify_arguments(s3), "--allow-http", environment=s3.credentials)
    assert verified.code == 0, verified.said
    assert f"{s3.uri('output')}: sound; 20 units" in verified.out
    s3.download("output", laptop.output)
    assert said(laptop, s3.uri("source")) == said(undisturbed, "source")


def said(laptop: Laptop, source: str) -> dict[tuple[Any, ...], str]:
    """Rewrites by key; files by their names below the source."""
    found = {}
    for row in laptop.samples().to_pylist():
        file = row["source_file"].removeprefix(f"{source}/")
        found[file, row["source_row"], row["prompt"], row["rollout"]] = row["text"]
    return found


def with_the_key(s3: S3) -> dict[str, str]:
    return s3.credentials


def with_a_wrong_secret(s3: S3) -> dict[str, str]:
    return s3.credentials | {"AWS_SECRET_ACCESS_KEY": "wrong"}


REFUSED: dict[str, tuple[str, str, Callable[[S3], dict[str, str]], int, str]] = {
    "wrong secret": ("output", "output", with_a_wrong_secret, 69, "access denied by the store"),
    "no such bucket for the output": (
        "output", "s3://no-such-bucket/output", with_the_key, 69, "no such bucket",
    ),
    "no such bucket for the source": (
        "source", "s3://no-such-bucket/source", with_the_key, 69, "no such bucket",
    ),
    "no such folder for the source": (
        "source", "s3://tests/nowhere", with_the_key, 64, "there is nothing at s3://tests/nowhere",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_s3_refuses_is_told_at_once(laptop: Laptop, s3: S3, case: str) -> None:
    place, uri, environment, code, words = REFUSED[case]
    on_s3(laptop, s3, **{place: {"uri": uri if "://" in uri else s3.uri(uri)}})

    ended = laptop.run(environment=environment(s3), within=40)

    assert ended.code == code, ended.said
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert s3.listed("output") == []


def test_verify_says_what_s3_refuses(laptop: Laptop, s3: S3) -> None:
    refused = laptop.rephrase(
        *verify_arguments(s3), "--allow-http", environment=with_a_wrong_secret(s3)
    )
    empty = laptop.rephrase(*verify_arguments(s3), "--allow-http", environment=s3.credentials)

    assert refused.code == 69, refused.said
    assert "access denied" in refused.err
    assert empty.code == 64, empty.said
    assert "no run here" in empty.err


def test_an_endpoint_without_tls_must_be_allowed(laptop: Laptop, s3: S3) -> None:
    on_s3(laptop, s3, source={"storage": {"allowHTTP": False}})

    ended = laptop.run(environment=s3.credentials, within=40)

    assert ended.code == 64, ended.said
    assert "an endpoint without TLS must be allowed. Set allowHTTP: true" in ended.err


def test_an_endpoint_without_tls_of_the_environment_must_be_allowed_too(
    laptop: Laptop, s3: S3
) -> None:
    ended = laptop.rephrase("status", s3.uri("output"), environment=s3.env)

    assert ended.code == 64, ended.said
    assert "an endpoint without TLS must be allowed" in ended.err
    assert "--allow-http" in ended.err


@pytest.mark.full
@pytest.mark.needs("uvx", "jq")
def test_the_printed_commands_make_a_manifest_of_the_output_whose_run_has_nothing_left_to_do(
    laptop: Laptop, s3: S3
) -> None:
    on_s3(laptop, s3)
    ran = laptop.run(environment=s3.credentials)
    programs = laptop.folder / "bin"
    put_tool(programs, "awscli==1.45.11", "aws")
    shell = Shell(laptop.folder, s3.env | {"PATH": path_with(programs)})
    output = s3.uri("output").removeprefix("s3://")

    for command in commands("docs/operations.md", "Everything is gone but the bucket"):
        shell.run(command.replace("BUCKET/OUTPUT", output))
    manifest = json.loads((laptop.folder / "run.json").read_text())
    place = {"storage": s3.storage}
    laptop.write(merged(manifest, {"spec": {"source": place, "output": place}}))
    again = laptop.run(environment=s3.credentials)

    assert (ran.code, again.code) == (0, 0), ran.said + again.said
    assert manifest["metadata"] == {"name": "again"}
    assert "complete: 2,346 samples written" in again.out
