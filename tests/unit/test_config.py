"""Settings: what the environment may say, and what a wrong word is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from startlist import config
from startlist.config import LogFormat, LogLevel, Settings
from startlist.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_are_those_of_the_contract() -> None:
    settings = config.load()
    assert settings.database_url is None
    assert settings.database_schema == "startlist"
    assert settings.api_url == "https://api.runsignup.com/rest"
    assert settings.calls_per_hour == 1000
    assert settings.concurrent_calls == 2
    assert settings.timezone is None
    assert (settings.log_level, settings.log_format, settings.log_file) == (LogLevel.INFO, LogFormat.CONSOLE, None)


def test_the_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("STARTLIST_CALLS_PER_HOUR=300\nSTARTLIST_CONCURRENT_CALLS=3\n")
    monkeypatch.setenv("STARTLIST_CALLS_PER_HOUR", "400")
    settings = config.load()
    assert (settings.calls_per_hour, settings.concurrent_calls) == (400, 3)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARTLIST_DATABASE_URL", "")
    monkeypatch.setenv("STARTLIST_TIMEZONE", "")
    assert config.load().database_url is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STARTLIST_DATABASE_URL", "anna:geheim@localhost"),
        ("STARTLIST_DATABASE_SCHEMA", "geheim-1"),
        ("STARTLIST_API_URL", "http://geheim.example.org/rest"),
        ("STARTLIST_API_URL", "https://anna:geheim@example.org/rest"),
        ("STARTLIST_API_URL", "ftp://geheim"),
        ("STARTLIST_API_REGISTRATION", "geheim"),
        ("STARTLIST_API_REGISTRATION_SECRET", "geheim"),
        ("STARTLIST_CALLS_PER_HOUR", "geheim"),
        ("STARTLIST_CONCURRENT_CALLS", "0"),
        ("STARTLIST_TIMEZONE", "Geheim/Zone"),
        ("STARTLIST_LOG_LEVEL", "geheim"),
        ("STARTLIST_LOG_FORMAT", "geheim"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_never_quoted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as raised:
        config.load()
    assert "geheim" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("url", ["http://127.0.0.1:8808/rest", "http://[::1]:1/rest", "http://localhost/rest/"])
def test_plain_http_is_for_this_machine_only(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("STARTLIST_API_URL", url)
    assert config.load().api_url == url.rstrip("/")


def test_secrets_are_hidden_in_the_settings_repr() -> None:
    settings = Settings(_env_file=None, database_url="postgresql://anna:geheim@h/x", secret_key="geheim")  # type: ignore[call-arg, arg-type]  # as the environment gives them
    assert "geheim" not in repr(settings)


@pytest.mark.parametrize("level", ["INFO", "Debug", "warning"])
def test_levels_are_read_in_any_case(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("STARTLIST_LOG_LEVEL", level)
    assert config.load().log_level == level.lower()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("STARTLIST_CALLS_PER_HOUR", "many", "must be a whole number"),
        ("STARTLIST_CALLS_PER_HOUR", "0", "must be 1 or more"),
        ("STARTLIST_CONCURRENT_CALLS", "65", "must be 64 or less"),
        ("STARTLIST_LOG_FORMAT", "xml", "must be 'console' or 'json'"),
        ("STARTLIST_DATABASE_SCHEMA", "pg_races", "must not begin with pg_"),
        ("STARTLIST_DATABASE_SCHEMA", "1st", "lower-case letters, digits and _"),
        ("STARTLIST_API_URL", "http://api.runsignup.com/rest", "write https://"),
        ("STARTLIST_API_URL", "https://api.runsignup.com:x/rest", "host or port cannot be read"),
        ("STARTLIST_API_URL", "https://[::1/rest", "host or port cannot be read"),
        ("STARTLIST_API_REGISTRATION_SECRET", "two words", "no blanks"),
        ("STARTLIST_HOME", "~nobody-of-that-name/x", "give the whole path"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{name}: .*{says}"):
        config.load()


def test_a_home_in_the_env_file_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".env").write_text("STARTLIST_HOME=~/races\nSTARTLIST_LOG_FILE=~/sync.log\n")
    settings = config.load()
    assert (settings.home, settings.log_file) == (tmp_path / "races", tmp_path / "sync.log")


def test_a_setting_that_is_spelt_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.unknown() == []
    monkeypatch.setenv("STARTLIST_DATABSE_URL", "postgresql://anna:geheim@localhost/x")
    (tmp_path / ".env").write_text("STARTLIST_NONSENSE=geheim\nOTHER=1\nSTARTLIST_TIMEZONE=UTC\n")
    assert config.unknown() == [
        "STARTLIST_DATABSE_URL is no setting; is STARTLIST_DATABASE_URL meant?",
        "STARTLIST_NONSENSE is no setting",
    ]


def test_an_env_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"STARTLIST_API_SECRET=geh\xffeim\n")
    with pytest.raises(ConfigurationError, match=r"the file \.env in .* is not a text file") as raised:
        config.load()
    assert "geh" not in str(raised.value)
