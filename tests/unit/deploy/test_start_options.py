"""`--option KEY=VALUE`."""

from __future__ import annotations

import pytest

from ecs_worker.deploy.start_options import merged
from ecs_worker.errors import UserError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["limit=20"], ["--limit", "20"]),
        (["--limit=20"], ["--limit", "20"]),
        (["query_seconds=2.5"], ["--query-seconds", "2.5"]),
        (["env=A=1", "env=B=two words=2"], ["--env", "A=1", "--env", "B=two words=2"]),
        (["inherit-network=yes"], ["--inherit-network"]),
        (["inherit-network=no"], []),
        (["create-pool-if-not-found=false"], ["--no-create-pool-if-not-found"]),
        (["documents-dir=/not/on/this/machine"], ["--documents-dir", "/not/on/this/machine"]),
        (["task-definition=s3://bucket/key"], ["--task-definition", "s3://bucket/key"]),
        (["env=A=--limit"], ["--env", "A=--limit"]),
    ],
    ids=" ".join,
)
def test_options_become_the_words_of_the_command(given: list[str], words: list[str]) -> None:
    assert merged("", given) == "\n".join(words)


def test_what_is_not_given_again_stays() -> None:
    before = "--limit\n20\n--env\nA=1\n--env\nB=2\n--inherit-network\n--query-seconds\n3"
    assert merged(before, ["limit=30"]) == (
        "--env\nA=1\n--env\nB=2\n--inherit-network\n--query-seconds\n3\n--limit\n30"
    )
    assert merged(before, ["env=C=3"]) == "--limit\n20\n--inherit-network\n--query-seconds\n3\n--env\nC=3"
    assert merged(before, ["limit=", "env=", "inherit-network=", "query-seconds="]) == ""


def test_a_value_that_looks_like_an_option_stays_a_value() -> None:
    assert merged("--env\n--limit\n--query-seconds\n3", ["query-seconds=4"]) == "--env\n--limit\n--query-seconds\n4"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("nonsense=1", "`ecs-worker start --help` lists them"),
        ("no-create-pool-if-not-found=1", "no such option"),
        ("query-seconds=0", "--query-seconds is '0'"),
        ("inherit-network=perhaps", "write true or false"),
        ("env=A", "--env has an item that is not KEY=VALUE"),
        ("launch-type=MANAGED_INSTANCES", "capacity provider"),
        ("env=A=1\n2", "several lines"),
        ("events-queue=q", "give --events-queue in its place"),
        ("log-format=console", "leave it out"),
    ],
)
def test_what_start_would_not_take_is_told(given: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        merged("", [given])


def test_this_machine_s_own_variables_take_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECS_WORKER_LIMIT", "none")
    assert merged("", ["query-seconds=2"]) == "--query-seconds\n2"
