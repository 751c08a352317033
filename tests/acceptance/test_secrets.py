"""A timer's whole day at debug level, good and bad: no secret is anywhere it does not belong, no runner in any log."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from cryptography.fernet import Fernet
from psycopg import sql

from startlist.sandbox import running
from startlist.sandbox.server import Sandbox
from startlist.store import binaries
from tests.acceptance.test_partner_command import on_a_terminal
from tests.conftest import Server
from tests.support import Cli, Result

RACE, PERSON = 100_001, 60_000_001
REGISTRATION_SECRET, PASSWORD, WRONG = "hush-registration-93", "hush-p@ss/w%rd", "hush-wrong-17"
PERSONAL: dict[str, Any] = {"last_name": "Quokkasdottir", "email": "quokka.runs@example.com", "phone": "555-0147-9921"}

# Whose results are about people; all else may speak of races, events, counts and API keys.
READING = ("find", "status", "changes", "bibs", "races", "history")
WITH_PEOPLE = ("runsignup_participants", "runsignup_changes", "runsignup_bib_changes", "runsignup_quarantine")


@dataclass
class Day:
    """What the commands of a day were given as secrets, and all that they left behind."""

    cli: Cli
    url: str
    sandbox: Sandbox
    log: Path | None
    secrets: set[str] = field(default_factory=set, repr=False)
    said: dict[str, str] = field(default_factory=dict, repr=False)  # everything but the results of reading commands
    results: dict[str, str] = field(default_factory=dict, repr=False)  # those
    failed: list[str] = field(default_factory=list, repr=False)
    seen: set[str] = field(default_factory=set, repr=False)  # how our processes were called

    def __call__(self, *words: object, code: int = 0, env: dict[str, str | None] | None = None) -> Result:
        """Run a command, which has to end with this exit status."""
        result = self.cli(*words, env=env)
        name = f"{len(self.said)} {' '.join(map(str, words))}"
        assert result.code == code, (name, result.stdout, result.stderr)
        if code:
            self.failed.append(result.stderr)
        if words[0] in READING:
            self.said[name], self.results[name] = result.stderr, result.stdout
        else:
            self.said[name] = result.stdout + result.stderr
        return result

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url, options="-c search_path=startlist", autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    def stored(self) -> dict[str, str]:
        """All rows of each table as text."""
        with psycopg.connect(self.url, options="-c search_path=startlist") as conn:
            names = conn.execute("select tablename from pg_tables where schemaname = 'startlist'").fetchall()
            return {
                name: "\n".join(
                    row for (row,) in conn.execute(sql.SQL("select t::text from {} t").format(sql.Identifier(name)))
                )
                for (name,) in names
            }


@pytest.fixture(scope="module", params=["console", "json"])
def day(
    request: pytest.FixtureRequest, server: Server, module_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Day]:
    """The day: once with logs for people on stderr and a key file, once with JSON in a file and keys in variables."""
    folder = tmp_path_factory.mktemp("day")
    name = server.create()
    plain = server.url_of(name)
    parts = urlsplit(plain)
    user, _, host = parts.netloc.rpartition("@")
    with_password = parts._replace(netloc=f"{user.split(':')[0]}:{quote(PASSWORD, safe='')}@{host}").geturl()
    home = module_home / request.param
    home.mkdir(mode=0o711)
    with running() as sandbox:
        env = {
            "STARTLIST_HOME": str(home),
            "STARTLIST_DATABASE_URL": with_password,
            "STARTLIST_API_URL": sandbox.url,
            "STARTLIST_LOG_LEVEL": "debug",
            "STARTLIST_LOG_FORMAT": request.param,
        }
        log = folder / "startlist.log" if request.param == "json" else None
        if log is not None:
            env["STARTLIST_LOG_FILE"] = str(log)
        it = Day(Cli(env, folder), plain, sandbox, log, {REGISTRATION_SECRET, PASSWORD, quote(PASSWORD), WRONG})
        watched = threading.Event()
        watcher = threading.Thread(target=watch, args=(it.seen, watched))
        watcher.start()
        try:
            live(it, folder, home)
        finally:
            watched.set()
            watcher.join()
        yield it
    server.drop(name)


def watch(seen: set[str], end: threading.Event) -> None:
    """Note how each process was called that descends from this one, again and again."""
    while not end.wait(0.02):
        parents: dict[int, int] = {}
        for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208  # a glob fails when one ends meanwhile
            with suppress(OSError, IndexError):  # it has ended
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        ours = {os.getpid()}
        while more := {child for child, parent in parents.items() if parent in ours} - ours:
            ours |= more
        for number in ours - {os.getpid()}:
            with suppress(OSError):
                line = Path(f"/proc/{number}/cmdline").read_bytes()
                seen.add(line.replace(b"\0", b" ").decode(errors="replace"))


def live(day: Day, folder: Path, home: Path) -> None:
    """Set up, sync, and everything that can go wrong."""
    control = day.sandbox.control
    in_variable = day.log is not None
    keys = [Fernet.generate_key().decode() for _ in range(2)]
    if in_variable:
        day.cli.env["STARTLIST_SECRET_KEY"] = keys[0]
        day.secrets |= set(keys)
    day("init")

    # Three partners: the secret from a variable, from a file, typed.
    v2, third = control.add_partner("Valley Timing", "v2"), control.add_partner("Third Timing")
    control.add_event(control.add_race("Turkey Trot", keys=[v2["key"]]), "5K")
    control.share(RACE, third["key"])
    control.edit(PERSON, **PERSONAL)
    first = control.partners()[0]
    day.secrets |= {first["secret"], v2["secret"], third["secret"]}
    day("partner", "add", "Peak Timing", "--api-key", first["key"], env={"STARTLIST_API_SECRET": first["secret"]})
    file = folder / "secret.txt"
    file.write_text(v2["secret"] + "\n")
    options = ["--credential-type", "v2", "--api-secret-file", file]
    day("partner", "add", "Valley Timing", "--api-key", v2["key"], *options)
    file.unlink()
    typed = ["partner", "add", "Third Timing", "--api-key", third["key"]]
    day.said["typed"] = on_a_terminal(day.cli, typed, "API secret", third["secret"])
    if not in_variable:
        day.secrets.add((home / "secret.key").read_text().strip())
    day("partner", "add", "Twice", "--api-key", first["key"], code=2, env={"STARTLIST_API_SECRET": WRONG})
    day("partner", "list", "--json")
    day("partner", "check")
    day("sync", "--json", "--summary", "summary.json")

    # What RunSignup does wrong. Two edits, so that each pass has something to store.
    control.edit(PERSON, middle_name="Ann")
    control.assign_bib(PERSON + 1, 17)
    match = {"endpoint": "participants", "race_id": RACE}
    for kind, times, parameters in (
        ("reset", 1, {}),
        ("truncate", None, {}),
        ("error", None, {"code": 999, "message": f"no such thing: {PERSONAL['email']} {first['secret']}"}),
        ("error", None, {"code": 7, "message": PERSONAL["email"]}),
        ("wrong_shape", None, {"value": {"error": f"{PERSONAL['email']} {first['secret']}"}}),
        ("bad_rows", None, {"what": ["no_user"]}),
        ("bad_rows", None, {"rows": [PERSONAL | {"registration_id": 0}, PERSONAL["email"]], "mode": "insert"}),
    ):
        control.fault(kind, match=match, times=times, **parameters)
        day("sync", "--race", RACE, "--force-full-sync", code=0 if kind == "reset" else 1)
        control.clear_faults()
    fields = {"age": PERSONAL["email"], "user": {"dob": PERSONAL["phone"]}}
    control.fault("bad_rows", match=match, times=None, fields=fields)
    day("sync", "--race", RACE, "--quiet")
    control.clear_faults()
    day("sync", "--timing-partner", 1, code=1, env={"STARTLIST_API_URL": "http://127.0.0.1:1/rest"})

    # What the database does: rows that it refuses, with the whole row or the value in its report; and it goes away.
    for number, check in enumerate(("last_name <> 'Quokkasdottir'", "email::int > 0")):
        day.execute(f"alter table runsignup_participants add constraint ours check ({check}) not valid")
        control.edit(PERSON, middle_name=f"Bo{number}")
        day("sync", "--race", RACE, code=1)
        day.execute("alter table runsignup_participants drop constraint ours")
    body = "begin perform pg_terminate_backend(pg_backend_pid()); return new; end"
    day.execute(
        f"create function lose() returns trigger language plpgsql as $$ {body} $$",
        "create trigger lose before update on runsignup_participants for each row execute function lose()",
    )
    day("sync", "--race", RACE, code=1)
    day.execute("drop trigger lose on runsignup_participants", "drop function lose")
    day("status", code=2, env={"STARTLIST_DATABASE_URL": f"postgresql://anna:{quote(PASSWORD, safe='')}@127.0.0.1:1/x"})
    day("status", code=2, env={"STARTLIST_DATABASE_URL": f"postgresql://anna:{PASSWORD}@127.0.0.1:1/x"})

    # Registrations of the caller, new secrets, a new key.
    caller = {"STARTLIST_API_REGISTRATION": "12.x", "STARTLIST_API_REGISTRATION_SECRET": REGISTRATION_SECRET}
    day("sync", code=2, env=dict(caller))
    day("partner", "check", code=2, env=dict(caller))
    day("sync", code=2, env={"STARTLIST_API_REGISTRATION_SECRET": REGISTRATION_SECRET})
    token, known = control.registration()
    day.secrets.add(known)
    day("sync", env={"STARTLIST_API_REGISTRATION": token, "STARTLIST_API_REGISTRATION_SECRET": known})
    day("partner", "rotate", 2, env={"STARTLIST_API_SECRET": WRONG})
    day("partner", "check", 2, code=1)
    day("sync", code=1)
    new = control.set_key(v2["key"])["secret"]
    day.secrets.add(new)
    day("partner", "rotate", 2, env={"STARTLIST_API_SECRET": new})
    if in_variable:
        day.cli.env["STARTLIST_SECRET_KEY"] = f"{keys[1]},{keys[0]}"
    day("key", "rotate")
    if not in_variable:
        day.secrets.add((home / "secret.key").read_text().strip())
    day("sync", code=2, env={"STARTLIST_SECRET_KEY": Fernet.generate_key().decode()})
    day("sync")

    # What is read.
    for words in (
        ["status"], ["status", "--json"], ["history"], ["races", "--json"], ["find", "17"], ["find", "17", "--json"],
        ["changes", "--json"], ["bibs"],
    ):  # fmt: skip
        day(*words)
    day("bibs", "lookup", RACE, 17, "--timing-partner", 1)
    day("sync", "--dry-run")
    day("db", "url")
    day("db", "backup", "day.dump")
    day("db", "psql", "--", "--command", "select 1")


def found(needles: set[str], text: str) -> set[str]:
    return {needle for needle in needles if needle in text}


def people(day: Day) -> set[str]:
    """E-mail addresses and phone numbers of all runners, and a name that nothing else has."""
    known = set(PERSONAL.values())
    for event in day.sandbox.control.truth(RACE)["events"].values():
        for row in event["active"]:
            known |= {str(row["user"][name]) for name in ("email", "phone") if row["user"][name]}
    return known


def logged(day: Day) -> str:
    return "" if day.log is None else day.log.read_text()


def test_the_day_was_bad_enough(day: Day) -> None:
    told = "\n".join(day.failed) + logged(day)
    for words in (
        "error 7", "error 17", "error 999", "quarantined", "cannot be used", "no answer from RunSignup",
        "SQLSTATE 23514", "SQLSTATE 22P02", "run this again when the database answers",
    ):  # fmt: skip
        assert words in told, words
    assert len(people(day)) > 20


def test_trap_38_no_command_tells_a_secret(day: Day) -> None:
    for name, text in {**day.said, **day.results, "the log file": logged(day)}.items():
        assert found(day.secrets, text) == set(), name
        assert "api_secret=" not in text, name
        assert "Authorization" not in text, name


def test_trap_38_no_process_shows_a_secret_to_others(day: Day) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system does not tell of processes in /proc")
    for program in ("startlist sync", "pg_dump", "psql"):
        assert any(program in line for line in day.seen), program
    for line in day.seen:
        assert found(day.secrets, line) == set()


def test_no_table_and_no_file_holds_a_secret(day: Day) -> None:
    for table, text in day.stored().items():
        assert found(day.secrets, text) == set(), table
        assert table != "partner_provider_credentials" or text.count("fernet:") == 3
    folder = day.cli.cwd
    for file in folder.iterdir():
        assert found(day.secrets, file.read_bytes().decode("utf-8", "replace")) == set(), file
    (programs, *_) = sorted(binaries.clients(embedded=False), key=lambda one: -one.major)
    dump = [programs.program("pg_restore"), "--file=-", str(folder / "day.dump")]
    script = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    assert "fernet:" in script
    assert found(day.secrets, script) == set()


def test_no_log_names_a_runner(day: Day) -> None:
    for name, text in {**day.said, "the log file": logged(day)}.items():
        assert found(people(day), text) == set(), name
    summary = (day.cli.cwd / "summary.json").read_text()
    assert found(people(day), summary) == set()


def test_people_are_in_the_tables_of_people_only(day: Day) -> None:
    tables = day.stored()
    assert found(set(PERSONAL.values()), tables["runsignup_participants"]) == set(PERSONAL.values())
    for table, text in tables.items():
        if table not in WITH_PEOPLE:
            assert found(people(day), text) == set(), table


def test_the_embedded_servers_log_names_no_runner(day: Day, server: Server) -> None:
    host = psycopg.conninfo.conninfo_to_dict(server.url).get("host")
    file = Path(str(host)).parent / "server.log"
    if not file.is_file():
        pytest.skip("the tests run on a server that is not embedded")
    text = file.read_text()
    assert found(people(day) | day.secrets, text) == set()
