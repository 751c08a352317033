"""JSON as bytes: taking records apart without decoding them, and what PostgreSQL's `jsonb` can hold of them.

All functions but `whole` expect valid JSON (msgspec has read over it). `jsonb` refuses some of that: U+0000, halves of
surrogate pairs, bytes that are not UTF-8, numbers beyond `numeric`, very deep nesting.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

import msgspec

MAX_DEPTH: Final = 100  # far below what breaks PostgreSQL's stack or a reader's recursion, far above any record
_MAX_DIGITS: Final = 2_000  # of a number, and its exponent; numeric holds more, Python's reader 4,300 digits in all

BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises at JSON that it cannot decode, or that is nested too deep for it."""

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+', re.DOTALL)
_ESCAPE = re.compile(
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"  # a whole pair
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"  # half of one
    rb"|(\\u0000)"
    rb"|\\.",
    re.DOTALL,
)
_EXPONENT = re.compile(rb"[eE][+-]?([0-9]+)\Z")
_FOLD = bytes.maketrans(b"123456789+-E[", b"00000000000e{")  # all that looks alike to `tame`
_LONG_NUMBER = b"0" * _MAX_DIGITS
_OPEN, _CLOSE, _QUOTE, _COLON, _COMMA = b"{[", b"}]", 0x22, 0x3A, 0x2C
_anything = msgspec.json.Decoder(msgspec.Raw)


class Kept(Enum):
    """What `storable` had to do to a value."""

    AS_SENT = 1
    REPAIRED = 2
    AS_TEXT = 3


def members(raw: bytes) -> list[tuple[bytes, bytes]]:
    """The keys (with their quotes) and values of an object, as sent, in the order sent."""
    found: list[tuple[bytes, bytes]] = []
    key: bytes | None = None
    begin, end, depth = -1, -1, 0
    for token in _TOKEN.finditer(raw):
        mark = raw[token.start()]
        if mark in _OPEN:
            depth += 1
            if depth == 1:
                continue
        elif mark in _CLOSE:
            depth -= 1
            if depth == 0:
                break
        elif depth == 1:
            if mark == _COLON:
                continue
            if mark == _COMMA:
                found.append((key or b'""', raw[begin:end]))
                key, begin = None, -1
                continue
            if key is None:
                key = token.group()
                continue
        if begin < 0:
            begin = token.start()
        end = token.end()
    if key is not None:
        found.append((key, raw[begin:end]))
    return found


def items(raw: bytes) -> list[bytes]:
    """The values of an array, as sent."""
    found: list[bytes] = []
    begin, end, depth = -1, -1, 0
    for token in _TOKEN.finditer(raw):
        mark = raw[token.start()]
        if mark in _OPEN:
            depth += 1
            if depth == 1:
                continue
        elif mark in _CLOSE:
            depth -= 1
            if depth == 0:
                break
        elif depth == 1 and mark == _COMMA:
            found.append(raw[begin:end])
            begin = -1
            continue
        if begin < 0:
            begin = token.start()
        end = token.end()
    if begin >= 0:
        found.append(raw[begin:end])
    return found


def key_text(key: bytes) -> tuple[str, bool]:
    """The name that a key as sent stands for, made storable, and whether that changed it."""
    clean, kept = storable(key)
    name: str = msgspec.json.decode(clean)
    return name, kept is not Kept.AS_SENT


def plain(raw: bytes) -> bool:
    """Whether `jsonb` takes the value as it is: True is sure, False may be over-careful."""
    return sound_text(raw) and not (b"\\ud" in raw or b"\\uD" in raw) and tame(raw)


def sound_text(raw: bytes) -> bool:
    """Whether the strings are UTF-8 without U+0000; halves of pairs are not looked for, since msgspec refuses them."""
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            return False
    return b"\\u0000" not in raw


def tame(raw: bytes) -> bool:
    """Whether nesting and numbers are within what `jsonb` takes."""
    folded = raw.translate(_FOLD)
    if folded.count(b"{") > MAX_DEPTH and _too_deep(raw):
        return False
    # A digit, an e and a digit may be an exponent. In most cases it is an escaped accent such as the one in \u00e1.
    suspects = folded.count(b"0e0")
    if _LONG_NUMBER in folded or (suspects and suspects != folded.count(b"\\u00e0")):
        return not _wild_number(raw)
    return True


def storable(raw: bytes) -> tuple[bytes, Kept]:
    """The value as `jsonb` takes it.

    U+0000 is dropped, halves of pairs and broken UTF-8 become U+FFFD. What is nested too deep or holds a number that
    `jsonb` cannot take is kept whole, as a string of its JSON.
    """
    if plain(raw):
        return raw, Kept.AS_SENT
    mended = _mend(raw)
    if _too_deep(mended) or _wild_number(mended):
        return msgspec.json.encode(mended.decode()), Kept.AS_TEXT
    return mended, Kept.AS_SENT if mended == raw else Kept.REPAIRED


def readable(raw: bytes) -> str:
    """The bytes as sent, as a text that PostgreSQL takes."""
    return raw.decode("utf-8", "replace").replace("\x00", "")


def whole(body: bytes) -> bool:
    """Whether a body that msgspec stumbles over (half pairs, deep nesting) is whole JSON nevertheless."""
    mended = _mend(body)
    if (flat := _flattened(mended)) is None:
        return False
    try:
        _anything.decode(flat)
    except BROKEN:
        return False
    return True


def _mend(raw: bytes) -> bytes:
    if not raw.isascii():
        raw = raw.decode("utf-8", "replace").encode()
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[2] else b"" if found[3] else found[0], raw)


def _too_deep(raw: bytes) -> bool:
    depth = 0
    for token in _TOKEN.finditer(raw):
        mark = raw[token.start()]
        if mark in _OPEN:
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif mark in _CLOSE:
            depth -= 1
    return False


def _wild_number(raw: bytes) -> bool:
    for token in _TOKEN.finditer(raw):
        if raw[token.start()] == _QUOTE:
            continue
        number = token.group()
        if _LONG_NUMBER in number.translate(_FOLD):
            return True
        if (found := _EXPONENT.search(number)) and (len(found[1]) > 6 or int(found[1]) > _MAX_DIGITS):
            return True
    return False


def _flattened(raw: bytes) -> bytes | None:
    """The JSON with everything below `MAX_DEPTH` replaced by zeros; None when brackets do not pair."""
    pieces: list[bytes] = []
    depth, copied = 0, 0
    for token in _TOKEN.finditer(raw):
        mark = raw[token.start()]
        if mark in _OPEN:
            depth += 1
            if depth == MAX_DEPTH + 1:
                pieces.append(raw[copied : token.start()])
        elif mark in _CLOSE:
            depth -= 1
            if depth == MAX_DEPTH:
                pieces.append(b"0")
                copied = token.end()
            if depth < 0:
                return None
    if depth:
        return None
    pieces.append(raw[copied:])
    return b"".join(pieces)
