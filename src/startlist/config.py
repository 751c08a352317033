"""Settings: every knob, its environment variable, its default."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import platformdirs
from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from startlist.errors import ConfigurationError

_ENV_FILE = ".env"


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def default_home() -> Path:
    """Where the embedded database and the key file live unless `STARTLIST_HOME` says otherwise."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/startlist")
    return Path(platformdirs.user_data_dir("startlist", appauthor=False))


class Settings(BaseSettings):
    """What the environment and `.env` say. Read it with `load()`, which turns faults into one clear error."""

    model_config = SettingsConfigDict(
        env_prefix="STARTLIST_", env_file=_ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True
    )

    database_url: SecretStr | None = Field(None, description="A PostgreSQL URL, 13 or newer; none: the embedded one.")
    database_schema: str = Field("startlist", description="The schema our tables live in.")
    home: Path = Field(default_factory=default_home, description="Embedded database and key file.")
    api_url: str = Field("https://api.runsignup.com/rest", description="RunSignup's base address.")
    api_registration: SecretStr | None = Field(None, description="RunSignup's caller registration, `id.token`.")
    api_registration_secret: SecretStr | None = Field(None, description="The registration's secret; both or neither.")
    api_secret: SecretStr | None = Field(None, description="The secret for `partner add` and `partner rotate`.")
    secret_key: SecretStr | None = Field(None, description="Fernet key(s), comma-separated, newest first.")
    calls_per_hour: int = Field(1000, ge=1, le=1_000_000, description="Calls of each credential per rolling hour.")
    concurrent_calls: int = Field(2, ge=1, le=64, description="Calls under way at once, of all processes.")
    timezone: str | None = Field(None, description="Zone of the daily times; none: the machine's.")
    worker_passes: int = Field(8, ge=1, le=64, description="Races that one `serve` or `worker` reads at once.")
    cadence_race_seconds: int = Field(60, ge=1, le=86400, description="Between two passes on race day.")
    cadence_near_seconds: int = Field(900, ge=1, le=86400, description="The day before, and the hours after.")
    cadence_evening_seconds: int = Field(3600, ge=1, le=86400, description="Until the next day.")
    cadence_routine_seconds: int = Field(14400, ge=1, le=86400, description="Long before a start.")
    cadence_over_seconds: int = Field(86400, ge=1, le=86400, description="When the race is over.")
    cadence_near_hours: int = Field(24, ge=0, le=240, description="Before the first start: from then on near.")
    cadence_race_hours: int = Field(4, ge=0, le=48, description="Before the first start: from then on race day.")
    cadence_race_hours_after: int = Field(1, ge=0, le=48, description="After the last start: the end of race day.")
    cadence_near_hours_after: int = Field(6, ge=0, le=240, description="After the last start: the end of near.")
    cadence_evening_hours_after: int = Field(24, ge=0, le=240, description="After the last start: then it is over.")
    cadence_days_after: int = Field(8, ge=1, le=365, description="Days after its end that an event is kept fresh.")
    cadence_week_days: int = Field(7, ge=0, le=60, description="Before the first start: from then on race week.")
    full_race_minutes: int = Field(10, ge=1, description="Age of the last full pass, on race day; one page.")
    full_week_minutes: int = Field(240, ge=1, description="The same in race week.")
    full_routine_minutes: int = Field(1440, ge=1, description="The same at other times.")
    full_large_race_minutes: int = Field(60, ge=1, description="On race day; more than one page.")
    full_large_week_minutes: int = Field(720, ge=1, description="The same in race week.")
    full_large_routine_minutes: int = Field(1440, ge=1, description="The same at other times.")
    record_race_minutes: int = Field(15, ge=1, description="Age of the race's own record, on race day.")
    record_near_minutes: int = Field(60, ge=1, description="The same the day before, and the hours after.")
    record_routine_minutes: int = Field(1440, ge=1, description="The same at other times.")
    retry_seconds: int = Field(900, ge=1, le=86400, description="The longest wait after failures.")
    monitoring: str = Field("127.0.0.1:9464", description="Where `serve` answers /healthz and /metrics; `off`.")
    log_level: LogLevel = Field(LogLevel.INFO, description="Least level that is logged.")
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="`json` for machines.")
    log_file: Path | None = Field(None, description="A rotating file instead of stderr.")

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("home", "log_file")
    @classmethod
    def _home_folder(cls, value: Path | None) -> Path | None:
        # No shell has seen what stands in `.env`; the database and the key file must agree on what ~ means.
        try:
            return value and value.expanduser()
        except RuntimeError:
            raise ValueError("~ is nobody's home folder here; give the whole path") from None

    @field_validator("database_schema")
    @classmethod
    def _schema_name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", value):
            raise ValueError("must be lower-case letters, digits and _ only, at most 63, and not begin with a digit")
        if value.startswith("pg_"):
            raise ValueError("must not begin with pg_, which PostgreSQL keeps for itself")
        return value

    @field_validator("api_registration", "api_registration_secret")
    @classmethod
    def _sendable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError(
                "must be what RunSignup gave you and nothing else: no blanks, plain letters and signs only"
            )
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError("not a known time zone; use an IANA name such as America/New_York") from None
        return value

    @field_validator("monitoring")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        if value.lower() != "off":
            host, port = _split_address(value)
            if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
                raise ValueError("must be an address and a port, as 127.0.0.1:9464 or [::1]:9464, or off")
        return value

    @property
    def monitoring_address(self) -> tuple[str, int] | None:
        """Host and port of `monitoring`; None when it is off."""
        if self.monitoring.lower() == "off":
            return None
        host, port = _split_address(self.monitoring)
        return host, int(port)

    @field_validator("api_url")
    @classmethod
    def _https_or_loopback(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError:
            raise ValueError("its host or port cannot be read; RunSignup's is https://api.runsignup.com/rest") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with https:// and name a host, as https://api.runsignup.com/rest does")
        if parts.username or parts.query or parts.fragment:
            raise ValueError("must be a plain address, without user, query or fragment")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError(
                "plain http would send secrets readable: write https://; http:// is only for this machine (127.0.0.1)"
            )
        return value.rstrip("/")

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError(
                "must begin with postgresql:// and have the form postgresql://user:password@host:port/database"
            )
        return value

    @model_validator(mode="after")
    def _whole_registration(self) -> Settings:
        if (self.api_registration is None) != (self.api_registration_secret is None):
            raise ValueError(
                "STARTLIST_API_REGISTRATION and STARTLIST_API_REGISTRATION_SECRET: set both or neither;"
                " RunSignup refuses every call that carries half a caller registration"
            )
        return self

    @model_validator(mode="after")
    def _nested_periods(self) -> Settings:
        names = [f"cadence_{name}_seconds" for name in ("race", "near", "evening", "routine", "over")]
        for name, longer in pairwise(names):
            if getattr(self, longer) % getattr(self, name):
                raise ValueError(
                    f"STARTLIST_{longer.upper()}: must be a multiple of STARTLIST_{name.upper()}"
                    f" ({getattr(self, name)}), so that no race is late where one cadence meets the next"
                )
        return self


def _split_address(text: str) -> tuple[str, str]:
    host, _, port = text.strip().rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load() -> Settings:
    """The settings of this process. Raises `ConfigurationError`, which names the variable and never a secret."""
    try:
        return Settings()  # type: ignore[call-arg]  # every field has a default or comes from the environment
    except ValidationError as error:
        problems = []
        for item in error.errors(include_input=False, include_url=False):
            name = "STARTLIST_" + str(item["loc"][0]).upper() + ": " if item["loc"] else ""
            problems.append(name + _plainly(item["type"], item.get("ctx", {}), item["msg"]))
        raise ConfigurationError("; ".join(problems)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the file {_ENV_FILE} in {Path.cwd()} is not a text file in UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"the file {_ENV_FILE} in {Path.cwd()} cannot be read: {error.strerror}") from None


def unknown() -> list[str]:
    """What the environment or `.env` names as ours and is no setting: most likely a setting spelt wrong."""
    known = ["STARTLIST_" + name.upper() for name in Settings.model_fields]
    given = {name.upper() for name in (*os.environ, *dotenv_values(_ENV_FILE))}
    said = []
    for name in sorted(given - set(known)):
        if name.startswith("STARTLIST_") and not name.startswith("STARTLIST_TEST_"):
            alike = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            said.append(f"{name} is no setting" + (f"; is {alike[0]} meant?" if alike else ""))
    return said


def _plainly(kind: str, limits: Mapping[str, Any], said: str) -> str:
    """What is wrong with a value, in words for people who do not program; the value itself is never told."""
    match kind:
        case "int_parsing" | "int_type" | "int_from_float":
            return "must be a whole number"
        case "int_parsing_size":
            return "is too large a number"
        case "greater_than_equal":
            return f"must be {limits['ge']} or more"
        case "less_than_equal":
            return f"must be {limits['le']} or less"
        case "enum":
            return f"must be {limits['expected']}"
        case "string_type" | "string_unicode":
            return "is not text in UTF-8"
        case _:
            return said.removeprefix("Value error, ")
