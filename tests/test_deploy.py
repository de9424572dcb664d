"""The files in deploy/ agree with Ray, with the command line, and with the files they name."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from lateack.cluster import cli

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


def load(name: str) -> Any:
    """Reads one YAML file of deploy/."""
    return yaml.safe_load((DEPLOY / name).read_text())


def pinned(distribution: str) -> str:
    """Finds the version of a distribution in constraints.txt."""
    (version,) = re.findall(rf"^{distribution}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return str(version)


def instructions(keyword: str) -> list[str]:
    """Lists what follows one keyword in the Dockerfile, with continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{keyword} +(.*)$", text, re.MULTILINE)


def named_commands() -> list[str]:
    """Collects every lateack command line that a file of deploy/ tells someone or something to run."""
    manual = (DEPLOY / "README.md").read_text()
    readme = re.findall(r"^    .*?\blateack ((?:run|table)\b[^'#\n]*)", manual, re.MULTILINE)
    image = [line.removeprefix("lateack ") for line in instructions("RUN") if line.startswith("lateack ")]
    return [load("rayjob.yaml")["spec"]["entrypoint"].removeprefix("lateack "), *readme, *image]


@pytest.mark.parametrize("line", named_commands())
def test_the_command_line_knows_what_deploy_says(line: str) -> None:
    """Each command exists and takes the arguments that are given to it."""
    name, *arguments = shlex.split(line)
    group = typer.main.get_group(cli.app)

    # Parses as the command line would, and runs nothing.
    context = group.commands[name].make_context(name, arguments)

    assert context.args == []


def test_the_job_tells_a_story_that_ships() -> None:
    """The RayJob's story is one of the package's own, and the job joins the cluster that it runs on."""
    command, _table, story, *options = shlex.split(load("rayjob.yaml")["spec"]["entrypoint"])

    assert command == "lateack"
    assert (ROOT / "cluster" / "stories" / f"{story}.yaml").is_file()
    assert options[options.index("--address") + 1] == "auto"


def test_the_job_runs_the_ray_that_is_tested() -> None:
    """KubeRay is told the version that constraints.txt puts into the image."""
    job = load("rayjob.yaml")

    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned("ray")


def test_the_job_cleans_up_and_never_asks_twice() -> None:
    """The cluster goes when the verdict is there, and an unexpected verdict is not retried away."""
    spec = load("rayjob.yaml")["spec"]

    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] == spec["submitterConfig"]["backoffLimit"] == 0


def test_every_pod_of_the_job_runs_one_image_and_every_volume_is_there() -> None:
    """Head and workers hold the same lateack, and no container mounts what its pod does not have."""
    cluster = load("rayjob.yaml")["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    containers = [container for pod in pods for container in pod["containers"]]

    mounted = {mount["name"] for container in containers for mount in container.get("volumeMounts", [])}
    volumes = {volume["name"] for pod in pods for volume in pod.get("volumes", [])}

    assert len({container["image"] for container in containers}) == 1
    assert mounted == volumes
    assert all(container["resources"]["limits"]["memory"] for container in containers)


def test_ray_accepts_the_cluster_file() -> None:
    """Ray's own reader fills the defaults in, and Ray's own schema finds no fault."""
    config = load("cluster.yaml")

    prepared = prepare_config(config)
    validate_config(prepared)

    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])


def test_the_cluster_file_asks_for_a_token_on_every_machine() -> None:
    """No machine starts a Ray that runs anyone's code."""
    config = load("cluster.yaml")
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]

    starts = [command for command in commands if "ray start" in command]

    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_every_extra_that_deploy_installs_exists() -> None:
    """The Dockerfile and the cluster file name extras that pyproject.toml has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (DEPLOY / "Dockerfile").read_text() + (DEPLOY / "cluster.yaml").read_text()

    named = set(re.findall(r"(?:\.|lateack)\[([a-z]+)\]", text))

    assert named == {"cluster"}
    assert named <= set(extras)


def test_the_image_copies_only_what_there_is() -> None:
    """Each source of a COPY is in the checkout, and together they are what the package is built from."""
    sources = {source for line in instructions("COPY") for source in line.split()[:-1]}

    assert sources >= {"pyproject.toml", "constraints.txt", "src", "nodes", "cluster", "protos"}
    assert {source for source in sources if not (ROOT / source).exists()} == set()


def test_the_image_runs_our_command_as_a_plain_user() -> None:
    """The entry point is a command that installing lateack installs, and the user is not root."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    (entrypoint,) = instructions("ENTRYPOINT")
    (user,) = instructions("USER")

    assert json.loads(entrypoint)[0] in scripts
    assert user not in ("root", "0")
