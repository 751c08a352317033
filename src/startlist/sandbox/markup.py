"""XML, which is what a caller gets who does not ask for `format=json`."""

from typing import Any
from xml.sax.saxutils import escape

_HEAD = '<?xml version="1.0" encoding="utf-8" ?>\n<!DOCTYPE events PUBLIC "-//RunSignUp//API" "/rest/rsu.dtd">\n'
# What XML 1.0 cannot hold, escaped or not.
_UNFIT = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(55296, 57344), 65534, 65535))


def to_xml(answer: Any) -> bytes:
    """Return an answer as XML; an array becomes `<events>`."""
    if isinstance(answer, dict) and len(answer) == 1:
        ((name, value),) = answer.items()
        return (_HEAD + _element(name, value)).encode()
    return (_HEAD + _element("events", answer)).encode()


def _element(name: str, value: Any) -> str:
    if isinstance(value, list):
        single = name.removesuffix("s") or "item"
        inner = "".join(_item(single, item) for item in value)
    elif isinstance(value, dict):
        inner = "".join(_element(key, item) for key, item in value.items())
    elif value is None:
        inner = ""
    else:
        inner = escape(str(value).translate(_UNFIT))
    return f"<{name}>{inner}</{name}>"


def _item(name: str, value: Any) -> str:
    # The JSON form wraps list items ({"race": {...}}, {"event": {...}}); XML has the one element only.
    if isinstance(value, dict) and len(value) == 1 and name in value:
        return _element(name, value[name])
    return _element(name, value)
