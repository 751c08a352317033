"""`startlist sandbox` as a process: what it prints, and how it ends."""

import json
import signal
import subprocess
import urllib.request

import pytest

from tests.support import COMMAND


def _start(*options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [COMMAND, "sandbox", "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_serves_until_stopped_and_its_json_tells_how_to_call_it(number: signal.Signals, status: int) -> None:
    process = _start("--partners", "1", "--registrations", "50", "--races-per-partner", "2", "--json")
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        key = facts["partners"][0]
        query = f"format=json&api_key={key['key']}&api_secret={key['secret']}"
        with urllib.request.urlopen(f"{facts['url']}/races?{query}") as response:
            assert len(json.loads(response.read())["races"]) == 2
        assert facts["summary"]["registrations"] == 50
    finally:
        process.send_signal(number)
        out, errors = process.communicate(timeout=10)
    assert process.returncode == status
    assert (out, errors) == ("", "")


def test_a_port_in_use_is_said() -> None:
    first = _start("--partners", "1", "--registrations", "1", "--races-per-partner", "1", "--json")
    try:
        assert first.stdout is not None
        port = json.loads(first.stdout.readline())["port"]
        second = _start("--partners", "1", "--registrations", "1", "--races-per-partner", "1", "--port", str(port))
        _, errors = second.communicate(timeout=10)
        assert second.returncode == 2
        assert f"port {port}" in errors
    finally:
        first.terminate()
        first.communicate(timeout=10)
