"""The Dockerfile, as far as it can be run without Docker: its own steps, in a fresh virtual environment."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ecs_worker.local.images import image as image_of
from support.paths import TOP

pytestmark = pytest.mark.xdist_group("image")  # one process: the environment takes twenty seconds to make

PREFIX = "/opt/ecs-worker"  # where the image holds the environment


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, in order; continued lines are joined."""
    text = re.sub(r"^#.*\n", "", (TOP / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, FROM included."""
    found: list[list[tuple[str, str]]] = []
    for instruction in instructions():
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that the first stage makes, by its own COPY and RUN steps with this interpreter as `python`."""
    context, root = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("root")
    prefix = root / PREFIX.lstrip("/")
    for word, rest in stages()[0]:
        match word:
            case "COPY":
                copy(rest.split(), context)
            case "RUN":
                assert "python -m venv" in rest
                command = rest.replace(PREFIX, str(prefix)).replace("python -m venv", f"{sys.executable} -m venv")
                done = subprocess.run(
                    ["/bin/sh", "-c", command], cwd=context, capture_output=True, text=True, timeout=170, check=False
                )
                assert done.returncode == 0, done.stdout + done.stderr
            case _:
                assert word in {"FROM", "WORKDIR"}, f"this test does not know how to do {word}"
    return prefix


def copy(names: list[str], context: Path) -> None:
    """COPY from the repository, but only what .dockerignore lets into the build."""
    *sources, target = names
    allowed = {line[1:] for line in (TOP / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    for source in sources:
        assert source in allowed, f".dockerignore keeps {source} out"
        if (TOP / source).is_dir():
            shutil.copytree(TOP / source, context / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(TOP / source, context / target)


def run(image: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the image, which sees nothing of the checkout."""
    command = [str(image / "bin" / arguments[0]), *arguments[1:]]
    environment = {"PATH": f"{image / 'bin'}:/usr/bin:/bin", "HOME": str(image)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_the_command_runs(image: Path) -> None:
    version = run(image, "ecs-worker", "--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", version.stdout)
    start = run(image, "ecs-worker", "start", "--help")
    assert start.returncode == 0
    assert "--pool" in start.stdout


def test_what_only_the_demo_needs_is_not_installed_and_what_builds_is_gone(image: Path) -> None:
    listed = json.loads(
        run(
            image,
            "python",
            "-c",
            "import importlib.metadata, json;"
            "print(json.dumps([d.metadata['Name'].lower() for d in importlib.metadata.distributions()]))",
        ).stdout
    )
    assert "ecs-worker" in listed
    assert "aioboto3" in listed
    assert not {"prefect", "moto", "fastapi", "pytest", "pip", "hatchling"} & set(listed)
    assert not list((image / "bin").glob("pip*"))


def test_installed_versions_are_the_pinned_ones(image: Path) -> None:
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (TOP / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    listed = run(
        image,
        "python",
        "-c",
        "import importlib.metadata\n"
        "for d in importlib.metadata.distributions(): print(d.metadata['Name'].lower().replace('_', '-'), d.version)",
    ).stdout
    installed = dict(line.split() for line in listed.splitlines())
    ours = {name: version for name, version in installed.items() if name not in {"ecs-worker", "setuptools"}}
    assert len(ours) > 20
    assert {name: pinned.get(name.replace(".", "-")) or pinned.get(name) for name in ours} == ours


def test_commands_that_need_the_demo_extra_say_so(image: Path) -> None:
    demo = run(image, "ecs-worker", "demo")
    assert demo.returncode == 2
    assert demo.stderr == (
        "ecs-worker: The demo needs a Prefect server and the embedded AWS (moto and prefect and uvicorn missing): "
        "pip install 'ecs-worker[demo]'.\n"
    )
    local = run(image, "ecs-worker", "local")
    assert local.returncode == 2
    assert local.stderr.endswith("install ecs-worker[demo].\n")
    assert len(local.stderr.splitlines()) == 1


def test_the_example_flows_are_part_of_the_package(image: Path) -> None:
    found = run(image, "python", "-c", "from ecs_worker.demo.stage import examples; print(examples())")
    assert found.returncode == 0, found.stderr
    directory = Path(found.stdout.strip())
    assert directory.is_relative_to(image)
    for name in ("my_flow.py", "crashing_flow.py"):
        assert (directory / name).read_text() == (TOP / "examples" / name).read_text()


def test_the_template_of_deployed_workers_is_part_of_the_package(image: Path) -> None:
    code = "import importlib.resources as r; print(r.files('ecs_worker.deploy') / 'template.yaml')"
    found = run(image, "python", "-c", code)
    path = Path(found.stdout.strip())
    assert path.is_relative_to(image)
    assert path.read_bytes() == (TOP / "src" / "ecs_worker" / "deploy" / "template.yaml").read_bytes()


def test_a_checkout_finds_its_own_examples() -> None:
    from ecs_worker.demo.stage import examples  # noqa: PLC0415 - beside what it is compared with

    assert examples() == TOP / "examples"


def test_the_last_stage_holds_the_environment_and_no_more_and_is_nobodys_root() -> None:
    build, final = stages()
    assert build[0][1].partition(" ")[0] == final[0][1], "the environment's interpreter is the base image's"
    assert final[0][1].endswith("-slim")
    steps = dict(final)
    assert [rest for word, rest in final if word == "COPY"] == [f"--from=build {PREFIX} {PREFIX}"]
    assert f"PATH={PREFIX}/bin:$PATH" in " ".join(rest for word, rest in final if word == "ENV")
    assert "useradd" in steps["RUN"]
    assert steps["USER"] in steps["RUN"]
    assert steps["USER"] != "root"
    assert json.loads(steps["ENTRYPOINT"]) == ["ecs-worker"]
    assert json.loads(steps["CMD"]) == ["start"]
    assert "org.opencontainers.image" in steps["LABEL"]


def test_the_embedded_aws_knows_the_image_as_it_is() -> None:
    known, steps = image_of("registry.example.com/ecs-worker:0.1.0"), dict(stages()[1])
    assert [*known.entry_point] == json.loads(steps["ENTRYPOINT"])
    assert [*known.command] == json.loads(steps["CMD"])
    words = " ".join(rest for word, rest in stages()[1] if word == "ENV").split()
    environment = dict(word.split("=", 1) for word in words)
    del environment["PATH"]  # the serving environment's
    assert known.environment == environment


def test_the_health_check_is_a_command_of_the_image(image: Path) -> None:
    _, _, check = dict(stages()[1])["HEALTHCHECK"].partition("CMD ")
    command = json.loads(check)
    asked = run(image, *command, "--health-address", "127.0.0.1:9")
    assert asked.returncode == 1
    assert "No worker answers at 127.0.0.1:9" in asked.stderr
    assert "ECS_WORKER_WITH_HEALTHCHECK=true" in " ".join(rest for word, rest in stages()[1] if word == "ENV")
