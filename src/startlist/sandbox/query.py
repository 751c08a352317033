"""What a caller asked: the parameters of one call, read the way the service reads them."""

from dataclasses import dataclass, field
from datetime import date
from urllib.parse import parse_qsl

from .rows import FLAGS
from .wire import read_day, words

SECRET_PARAMETERS = frozenset(
    words("api_key api_secret rsu_api_key sp_api_key tmp_key tmp_secret rsu_api_reg access_token")
)
MESSAGES = {
    1: "Unknown method.",
    2: "Invalid request method.",
    3: "Invalid parameters.",
    4: "Unknown error.",
    5: "Database error.",
    6: "Key authentication failed",
    7: "Permission Denied",
    8: "Not implemented.",
    9: "Invalid date.",
    10: "Format not supported.",
    13: "You must be logged in.",
    14: "Request throttled.",
    15: "Invalid ID.",
    17: "Invalid API caller credentials.",
    201: "Race not found.",
    301: "Event not found.",
}


class ApiError(Exception):
    """An error envelope; HTTP status 200 but for code 17."""

    def __init__(self, code: int, message: str | None = None) -> None:
        self.code = code
        self.message = message if message is not None else MESSAGES.get(code, f"Error {code}.")
        self.status = 400 if code == 17 else 200
        super().__init__(self.message)

    def envelope(self) -> dict[str, object]:
        """Return the body."""
        return {"error": {"error_code": self.code, "error_msg": self.message}}


@dataclass(slots=True)
class Query:
    """The parameters of a call; unknown ones are ignored in silence."""

    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, query_string: bytes) -> "Query":
        """Read a query string; of a repeated parameter the last one counts."""
        return cls(dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)))

    def shown(self) -> dict[str, str]:
        """Return the parameters without keys and secrets, for the log."""
        return {name: value for name, value in self.values.items() if name not in SECRET_PARAMETERS}

    def flag(self, name: str) -> bool:
        """Return a "T"/"F" parameter, F when absent."""
        return self.values.get(name, "F") == "T"

    def number(self, name: str, default: int | None = None) -> int | None:
        """Return an unsigned integer; error 3 for anything else."""
        value = self.values.get(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit()):
            raise ApiError(3)
        return int(value)

    def paging(self, default: int, maximum: int) -> tuple[int, int]:
        """Return page (from 1) and rows a page, clamped in silence."""
        page = self.number("page", 1) or 0
        size = self.number("results_per_page", default) or 0
        if page < 1 or size < 1:
            raise ApiError(3)
        return page, min(size, maximum)

    def sort(self, names: frozenset[str], default: str) -> tuple[str, bool]:
        """Return the field to sort by, and whether descending; a bare name is accepted."""
        words = self.values.get("sort", default).split() or [default]
        name, *direction = words
        if name not in names or len(direction) > 1 or (direction and direction[0].upper() not in ("ASC", "DESC")):
            raise ApiError(3)
        return name, bool(direction) and direction[0].upper() == "DESC"

    def day(self, name: str, now: float, default: str | None = None) -> date | None:
        """Return a parameter of type *date*; error 9 if it is none."""
        value = self.values.get(name, default)
        if value is None:
            return None
        day = read_day(value, now)
        if day is None:
            raise ApiError(9)
        return day

    def since(self, name: str) -> int | None:
        """Return epoch seconds, -1 where the value is anything but digits: such a query finds nothing, silently."""
        value = self.values.get(name)
        if value is None:
            return None
        return int(value) if value.isascii() and value.isdigit() else -1

    def ids(self, name: str) -> list[int]:
        """Return a comma-separated id list, in order, each once; error 3 when missing, 15 for what is no id."""
        value = self.values.get(name, "")
        if not value:
            raise ApiError(3)
        found: dict[int, None] = {}
        for word in value.split(","):
            word = word.strip()
            if not (word.isascii() and word.isdigit()):
                raise ApiError(15)
            found[int(word)] = None
        return list(found)

    def mask(self) -> int:
        """Return which optional parts of a row are asked for."""
        return sum(bit for name, bit in FLAGS.items() if self.flag(name))
