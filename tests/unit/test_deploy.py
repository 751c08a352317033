"""The files in deploy/: systemd and compose take them, and they name settings and paths that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from startlist.config import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "startlist.service"
    drop_in = tmp_path / "startlist.service.d"
    drop_in.mkdir()
    for name, file in (("startlist.service", unit), ("embedded.conf", drop_in / "embedded.conf")):
        # Here nothing is installed; what is to be judged is the unit, not this machine.
        file.write_text((DEPLOY / name).read_text().replace("/opt/startlist/bin/startlist", "/bin/true"))
    done = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "startlist" in line]
    assert (done.returncode, told) == (0, [])


def test_compose_accepts_its_file(tmp_path: Path) -> None:
    program = shutil.which("docker")
    if program is None or subprocess.run([program, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    shutil.copy(DEPLOY / "compose.yaml", tmp_path)
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=secret\n")
    command = [program, "compose", "--file", str(tmp_path / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["startlist.service", "startlist.env.example", "Dockerfile", "compose.yaml"])
def test_only_settings_that_exist_are_named(name: str) -> None:
    named = set(re.findall(r"STARTLIST_[A-Z_]+", (DEPLOY / name).read_text()))
    assert named
    assert named <= {f"STARTLIST_{field.upper()}" for field in Settings.model_fields}


def test_every_message_is_explained() -> None:
    told = re.compile(r'log\.(?:info|warning|error|exception)\(\s*"([a-z_.]+)"')
    modules = (DEPLOY.parent / "src" / "startlist").rglob("*.py")
    events = {event for module in modules for event in told.findall(module.read_text())}
    table = (DEPLOY.parent / "docs" / "operating.md").read_text().partition("## What each message means")[2]
    explained = {
        event for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for event in re.findall("`(.+?)`", row)
    }
    assert events
    assert explained == events
