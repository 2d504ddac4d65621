"""What the image and the services are made of lets them do no more than they need."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "runstream"}


def test_the_image_runs_as_a_user_that_is_not_root() -> None:
    last_stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE)
    assert users
    assert int(users[-1]) > 0  # a number: an orchestrator that wants no root cannot read it from a name


def test_the_image_says_whether_it_serves() -> None:
    assert "\nHEALTHCHECK " in (ROOT / "Dockerfile").read_text()


def test_there_are_processes_of_ours() -> None:
    assert {"api", "worker", "migrate"} == set(OURS)


@pytest.mark.parametrize("service", OURS.values(), ids=OURS)
def test_a_process_of_ours_writes_nothing_and_has_no_privilege_to_lose(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "user", "volumes", "network_mode", "pid"} & service.keys()


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_nothing_is_published_beyond_the_host(service: dict[str, Any]) -> None:
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []
