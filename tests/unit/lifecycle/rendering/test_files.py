"""Files of the worker's machine as documents: whose may be read, and what reading them may cost."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from ecs_worker.aws.session import Aws
from ecs_worker.errors import DocumentUnread, JobInvalid, UserError
from ecs_worker.job.attached import Document, documents
from ecs_worker.job.configuration import JobConfiguration
from ecs_worker.lifecycle.rendering.files import Documents, parsed
from ecs_worker.settings import JobDefaults, JobSettings, load
from support.waiting import until

pytestmark = pytest.mark.anyio


def of_worker(path: Path | str) -> Document:
    return Document(str(path), "--task-definition", anywhere=True)


def of_job(path: Path | str, directory: Path | None) -> Document:
    return Document(str(path), "task_definition_path", directory)


async def refusal(document: Document) -> str:
    """Why the document is not read; within a second, for none of these may hang."""
    with anyio.fail_after(1), pytest.raises(JobInvalid) as caught:
        await Documents(Aws()).read(document)
    return str(caught.value)


async def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "definition.yaml"
    file.write_text("cpu: 512")
    reader, document = Documents(Aws(), fresh=0), of_worker(file)
    first = await reader.read(document)
    assert first == {"cpu": 512}
    assert await reader.read(document) is first
    file.write_text("cpu: 1024")
    assert await reader.read(document) == {"cpu": 1024}
    file.write_text("dockerLabels: {built: 2024-01-01, 1: x}")
    assert await reader.read(document) == {"dockerLabels": {"built": "2024-01-01", "1": "x"}}
    file.write_text("root: hunter2\n- x")
    with pytest.raises(JobInvalid, match=r"definition\.yaml is neither YAML nor JSON \(line 2, column 1\)") as caught:
        await reader.read(document)
    assert "hunter2" not in str(caught.value)
    file.unlink()
    with pytest.raises(JobInvalid, match=r"--task-definition: the worker can't read .*: No such file"):
        await reader.read(document)


# Whose files --------------------------------------------------------------------------------------------------


def test_only_what_the_operator_names_may_be_anywhere(tmp_path: Path) -> None:
    defaults = JobDefaults(task_definition="/own/d.yaml", run_task_kwargs="/own/a.yaml", documents_dir=tmp_path)
    job = JobConfiguration(task_definition_path="/own/d.yaml", run_task_kwargs_path="a.yaml")
    assert documents(job, defaults) == [
        Document("/own/d.yaml", "--task-definition", anywhere=True),
        Document("/own/a.yaml", "--run-task-kwargs", anywhere=True),
        Document("/own/d.yaml", "task_definition_path", tmp_path),
        Document("a.yaml", "run_task_kwargs_path", tmp_path),
    ]


async def test_without_a_directory_jobs_name_no_files_of_the_worker_s_machine(tmp_path: Path) -> None:
    (tmp_path / "there.yaml").write_text("cpu: 512")
    for path in (tmp_path / "there.yaml", tmp_path / "absent.yaml", "/etc/passwd", "relative.yaml"):
        assert await refusal(of_job(path, None)) == (
            f"task_definition_path: jobs may not name files of the worker's machine, such as {path}; put it on S3 "
            "(s3://bucket/key), or let the worker's operator allow a directory (--documents-dir)."
        )


async def test_a_job_s_file_is_under_the_operator_s_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = tmp_path / "allowed"
    (allowed / "team" / "..data").mkdir(parents=True)
    (allowed / "team" / "..data" / "d.yaml").write_text("cpu: 512")
    (allowed / "team" / "link.yaml").symlink_to("..data/d.yaml")  # as Kubernetes mounts a ConfigMap
    for path in ("team/link.yaml", allowed / "team" / "..data" / "d.yaml", "team/../team/link.yaml"):
        assert await Documents(Aws()).read(of_job(path, allowed)) == {"cpu": 512}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alias").symlink_to("allowed")
    for directory in ("allowed", "alias"):
        found = await Documents(Aws()).read(of_job("team/link.yaml", Path(directory)))
        assert found == {"cpu": 512}, "a relative directory, or one that is a link, does as well"


async def test_whether_something_exists_elsewhere_is_not_told(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "there.yaml").write_text("cpu: 512")
    (allowed / "out").symlink_to(tmp_path)
    names = ["../{}", str(tmp_path / "{}"), "out/{}", "../allowed/../{}"]
    for name in names:
        told = {
            (await refusal(of_job(name.format(file), allowed))).replace(file, "FILE")
            for file in ("there.yaml", "absent.yaml", "there.yaml/below")
        }
        [sentence] = {sentence.replace("FILE/below", "FILE") for sentence in told}
        assert sentence == (
            f"task_definition_path: {name.format('FILE')} is not under {allowed}, the directory that the worker's "
            "operator allows; put it there, or on S3."
        )


async def test_the_worker_s_own_file_stays_refused_to_jobs(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("cpu: 512")
    reader = Documents(Aws())
    assert await reader.read(of_worker(tmp_path / "own.yaml")) == {"cpu": 512}
    with pytest.raises(JobInvalid, match="may not name files"):
        await reader.read(of_job(tmp_path / "own.yaml", None))


def test_a_directory_that_is_not_there_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECS_WORKER_DOCUMENTS_DIR", str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"^ECS_WORKER_DOCUMENTS_DIR is '.*absent', but there is no such directory\.$"):
        load(JobSettings)
    assert load(JobSettings, documents_dir=tmp_path).documents_dir == tmp_path


# What it costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
async def test_only_regular_files_are_opened(tmp_path: Path, own: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", *((of_worker("/dev/zero").path,) if own else ())):
        document = of_worker(path) if own else of_job(path, tmp_path)
        assert await refusal(document) == f"{document.source}: {path} is no regular file; name one."


async def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "d.yaml").open("wb") as file:
        file.truncate(1 << 40)  # of nothing
    assert "has more than 1048576 bytes" in await refusal(of_job("d.yaml", tmp_path))


def bomb(levels: int) -> bytes:
    """Ten times as large with each level."""
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels))]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (bomb(30), "has more than 10000 values, counted with what its aliases repeat"),
        (
            b"a0: &a0 {x: 1}\n"
            + b"\n".join(b"a%d: &a%d {<<: [%s]}" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 30)),
            "has more than 10000 values",
        ),
        (b"[" + b"1," * 10_000 + b"]", "has more than 10000 values"),
        (b"a: 1" + b":10" * 300_000, "has a number of more than 400 digits"),
        (b"a: &a {b: *a}", "says what JSON can't, like a list inside itself"),
        (b"[" * 100_000, "says what JSON can't"),
    ],
    ids=["aliases", "merges", "values", "sexagesimal", "itself", "depth"],
)
def test_what_grows_when_it_is_read_is_refused_at_once(content: bytes, sentence: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=sentence):
        parsed(content)
    assert time.monotonic() - began < 5


def test_anchors_are_for_use() -> None:
    content = b"base: &b {cpu: 512, tags: &t [1, 2]}\nflow: {<<: *b, memory: 1024}\nagain: [*t, *t]\nround: 190:20"
    flow: Any = {"cpu": 512, "tags": [1, 2], "memory": 1024}
    assert parsed(content) == {
        "base": {"cpu": 512, "tags": [1, 2]},
        "flow": flow,
        "again": [[1, 2], [1, 2]],
        "round": 190 * 60 + 20,
    }


async def test_a_file_that_takes_too_long_is_given_up_and_may_be_read_later(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_bytes(b"#" * 1_000_000 + b"\ncpu: 512")  # PyYAML reads it character by character
    reader, document = Documents(Aws(), timeout=0.01), of_job("d.yaml", tmp_path)
    with pytest.raises(DocumentUnread, match=r"to read d\.yaml takes more than 0\.01 s; look at the file and at the"):
        await reader.read(document)
    with pytest.raises(DocumentUnread, match=r"an earlier attempt to read d\.yaml still hangs"):
        await reader.read(document)

    async def over() -> bool:
        with pytest.raises(DocumentUnread) as caught:
            await reader.read(document)
        return "takes more than" in str(caught.value)

    await until(over)
    assert await Documents(Aws()).read(document) == {"cpu": 512}
