"""The images, the compose file and Prometheus' files refer only to what the project has."""

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client import Histogram

from streams.commands import main
from streams.engine.metrics import Metrics
from streams.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
CONFIG = ROOT / "config"
DOCKERFILE = (DOCKER / "Dockerfile").read_text().replace("\\\n", "")
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
CUDA: dict[str, Any] = yaml.safe_load((DOCKER / "compose.cuda.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
VARIABLES = {f"STREAMS_{field.name.upper()}" for field in fields(Settings)} | {"STREAMS_CONFIG"}


def image_environment() -> dict[str, str]:
    lines = re.findall(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def instruction(name: str) -> str:
    (found,) = re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)
    return str(found)


def parse(arguments: list[str]) -> None:
    """Raise UsageError where the command line does not know a command or an option."""
    command: click.Command = main
    while isinstance(command, click.Group):
        name, *arguments = arguments
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"no such command: {name}"
        command = found
    command.make_context(command.name, arguments)


def test_images_run_the_worker_unprivileged_and_check_that_it_lives() -> None:
    """The default command is the worker's; the user is not root; the health check asks /live and is valid Python."""
    assert json.loads(instruction("CMD")) == ["faust", "-A", "streams", "worker", "-l", "info"]
    assert instruction("USER") == "10001:10001"
    options, _, check = instruction("HEALTHCHECK").partition("CMD ")
    assert "--start-period" in options
    python, flag, code = json.loads(check)
    assert (python, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert "/live" in code


def test_dockerfile_has_the_targets_and_copies_only_what_exists() -> None:
    """The targets that compose names are stages; the sources exist and pass the ignore file."""
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert {"cpu", "cuda"} <= stages
    assert {service["build"]["target"] for service in OURS.values()} <= stages
    allowed = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = {
        source
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    }
    assert copied == allowed
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_every_variable_of_images_and_services_is_a_setting() -> None:
    """A misspelt STREAMS_ variable would be ignored in silence."""
    used = set(image_environment()) | {name for service in OURS.values() for name in service.get("environment", {})}
    assert {name for name in used if name.startswith("STREAMS_")} <= VARIABLES


@pytest.mark.parametrize("name", OURS)
def test_settings_accept_each_services_environment(name: str) -> None:
    """Image and service together make settings that can work, and that listen beyond the container's loopback."""
    settings = load_settings(env=image_environment() | OURS[name]["environment"] | {"STREAMS_DEVICE": "cpu"})
    assert settings.bootstrap_servers == "kafka:19092"
    assert settings.http_host == "0.0.0.0"


@pytest.mark.parametrize("name", [name for name in OURS if "command" in OURS[name]])
def test_each_services_command_is_one_that_the_command_line_knows(name: str) -> None:
    """Commands and options of the compose file are parsed by the real command line."""
    program, *arguments = OURS[name]["command"]
    assert program == "streams"
    parse(arguments)


def test_an_unknown_option_would_be_noticed() -> None:
    """The check of commands is one: a wrong option fails it."""
    with pytest.raises(click.UsageError):
        parse(["produce", "simulate", "--rats", "1000"])


def test_workers_have_slots_and_ports_of_their_own() -> None:
    """A slot is unique; the published port is http_port plus the slot, and Prometheus scrapes just these."""
    workers = {name: service for name, service in OURS.items() if "command" not in service}
    slots = [int(service["environment"]["STREAMS_WORKER_SLOT"]) for service in workers.values()]
    assert len(workers) == len(set(slots)) == 2
    expected = {name: Settings().http_port + slot for name, slot in zip(workers, slots, strict=True)}
    published = {name: int(service["ports"][0].rsplit(":", 1)[1]) for name, service in workers.items()}
    assert published == expected
    scrape = yaml.safe_load((CONFIG / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == [f"{name}:{port}" for name, port in expected.items()]
    assert CUDA["services"].keys() == workers.keys()


def test_services_depend_on_services_and_mount_what_exists() -> None:
    """depends_on, named volumes, bind mounts and builds lead to something."""
    for service in SERVICES.values():
        assert service.get("depends_on", {}).keys() <= SERVICES.keys()
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in COMPOSE["volumes"] if "/" not in source else (DOCKER / source).is_file()
    for service in OURS.values():
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_no_service_of_ours_can_write_its_image_or_gain_privileges() -> None:
    """Read-only root, no capabilities, no new privileges; ports are published on loopback only."""
    for service in OURS.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_alerts_ask_for_metrics_that_the_worker_has() -> None:
    """An alert on a metric that no worker writes would never fire."""
    metrics = Metrics()
    known: set[str] = set()
    for value in vars(metrics).values():
        for family in getattr(value, "describe", list)():
            suffixes = ("_bucket", "_sum", "_count") if isinstance(value, Histogram) else ("", "_total")
            known |= {family.name + suffix for suffix in suffixes}
    assert "streams_rejected_total" in known
    document = yaml.safe_load((CONFIG / "alerts.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    used = {name for rule in rules for name in re.findall(r"\bstreams_\w+", rule["expr"])}
    assert used
    assert used <= known
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "ticket") for rule in rules)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_dockerfile_passes_hadolint() -> None:
    """hadolint finds nothing to say."""
    lint = subprocess.run(["hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (lint.stdout + lint.stderr, lint.returncode) == ("", 0)
