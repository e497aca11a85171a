"""How log lines begin, what they give as their time and how grave they are: the formats that are common in files.

Every expression here says something about a text that may stop anywhere, and must say the same of a longer one. So a
head ends at the character that makes it certain and looks at nothing behind it, and what goes on after a head (the rest
of a time) is written so that each beginning of it is one too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["LEVELS", "find_level", "find_time", "start_of_record"]

LEVELS = {"trace": 0, "debug": 1, "info": 2, "notice": 3, "warning": 4, "error": 5, "critical": 6}
"""Value of label `level` by name; the higher, the graver."""

_OTHER_NAMES = {
    "verbose": "trace",
    "finest": "trace",
    "finer": "trace",
    "fine": "debug",
    "information": "info",
    "warn": "warning",
    "err": "error",
    "severe": "error",
    "fatal": "critical",
    "crit": "critical",
    "alert": "critical",
    "emerg": "critical",
    "emergency": "critical",
    "panic": "critical",
}
_VALUES = {name: LEVELS[_OTHER_NAMES.get(name, name)] for name in (*LEVELS, *_OTHER_NAMES)}
_SEVERITIES = (6, 6, 6, 5, 4, 3, 2, 1)
"""Levels of syslog's severities 0 to 7."""
_LETTERS = {"I": 2, "W": 4, "E": 5, "F": 6}
"""Levels of the first letter of klog's and glog's lines."""

_LEVEL_COLUMNS = 200
"""A level stands in this many characters of a record's first line; behind them is the message."""
_TIME_COLUMNS = 120


def _going_on(*atoms: str) -> str:
    """An expression for every beginning of the sequence of `atoms`, the longest one that there is.

    >>> _going_on("a", "b")
    '(?:a(?:b)?)?'
    """
    expression = ""
    for atom in reversed(atoms):
        expression = f"(?:{atom}{expression})?"
    return expression


_D = r"\d"
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_WEEKDAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_DATE = r"\d{4}(?:-\d\d-|/\d\d/|\.\d\d\.)\d\d"
_DAY_FIRST = r"\d\d(?:/\d\d/|\.\d\d\.)\d{4}"
_CLOCK = (_D, _D, ":", _D, _D, ":", _D, _D)
_ZONE = rf"(?:Z|[+-]{_going_on(_D, _D, ':?', _D, _D)})?"
_FRACTION = r"(?:[.,]\d*)?"

_TIMES = tuple(
    re.compile(head + tail, re.ASCII)
    for head, tail in (
        (rf"(?<!\d)(?P<head>{_DATE})", _going_on("[ T]", " ?", *_CLOCK, _FRACTION + _ZONE)),
        (rf"(?<!\d)(?P<head>{_DAY_FIRST})", _going_on("[ T]", " ?", *_CLOCK, _FRACTION + _ZONE)),
        (
            rf"(?P<head>\b{_WEEKDAY} {_MONTH} [ \d]\d)",
            _going_on(" ", *_CLOCK, _FRACTION + _going_on(" ", *(_D,) * 4)),
        ),
        (rf"(?P<head>\b{_MONTH} [ \d]\d)", _going_on(" ", *_CLOCK, _FRACTION)),
        (rf"(?<!\d)(?P<head>\d\d/{_MONTH}/\d{{4}})", _going_on(":", *_CLOCK, " ", "[+-]", *(_D,) * 4)),
        (r"(?<!\d)(?P<head>\d\d:\d\d:\d\d)", _FRACTION),
        (r"(?P<head>\[ *\d+\.\d{6}\])", ""),
        (r"(?<![\d.])(?P<head>\d{10}\.\d{3})", ""),
    )
)
_KEYED_TIME = re.compile(
    r"""(?<![\w@.])["']?(?:time|timestamp|@timestamp|ts|date|datetime|asctime)["']?\s?[=:]\s?"""
    r"""(?:"(?P<quoted>[^"\n]+)|(?P<bare>[^\s"',}]+))""",
    re.ASCII,
)

_UPPER = "|".join(sorted((name.upper() for name in _VALUES), key=len, reverse=True))
_ANY = "|".join(sorted(_VALUES, key=len, reverse=True))
_STARTS = tuple(
    re.compile(expression, re.ASCII)
    for expression in (
        rf"[\[(\"']?{_DATE}",
        rf"[\[(\"']?{_DAY_FIRST}",
        rf"\[?{_WEEKDAY} {_MONTH} [ \d]\d",
        rf"\[?{_MONTH} [ \d]\d \d",
        r"\[?\d\d:\d\d:\d\d",
        r"\[ *\d+\.\d{6}\]",
        r"\d{10}\.\d{3}",
        # syslog as it is sent: a priority, and the version or the month
        rf"<(?P<priority>\d{{1,3}})>(?:1 \d|{_MONTH} |\d{{4}}-)",
        # klog, glog
        r"(?P<letter>[IWEF])\d{4} \d\d:",
        # a program's name before the time
        rf"[\w.@/-]{{1,64}}(?:\[\d+\])?:? {_DATE}",
        # web servers' access: address, identity, user, time
        r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3} - ",
        rf"\S{{1,255}} \S{{1,64}} \S{{1,64}} \[\d\d/{_MONTH}/",
        r"\{\s?\"",
        r"(?:time|ts|timestamp|level|lvl)=",
        rf"\[(?:{_UPPER})\]",
        rf"(?:{_UPPER})(?: [\s\[(-]|:| \w)",
        "Start-Date: ",
    )
)
_WORD = re.compile(r"[A-Za-z]\w*", re.ASCII)
_AFTER_CAPITALS = frozenset(" \t\r\n])>|:,!")
_BEFORE_CAPITALS = frozenset(" \t[(<|:")
_OPENING, _CLOSING = frozenset("[<(|:"), frozenset("]>)|")
_AFTER_VALUE = frozenset(" \t\r\n\"',}")
_KEY = re.compile(
    r"(?:level|lvl|severity|levelname|loglevel|log\.level)[\"']?\s?[=:]\s?[\"']?\Z", re.ASCII | re.IGNORECASE
)
_KEY_COLUMNS = 24
_NUMBER = re.compile(r"\"level\"\s?:\s?([1-6]0)(?=[\s,}])", re.ASCII)
# web servers' access: `"GET / HTTP/1.1" 500 `
_STATUS = re.compile(r"\" ([1-5])\d\d(?=\s)", re.ASCII)
_NUMBERS = {"10": 0, "20": 1, "30": 2, "40": 4, "50": 5, "60": 6}
"""Levels of bunyan's and pino's numbers."""


class Start(NamedTuple):
    """Where a line is known to begin a record.

    Attributes:
        known: Number of leading characters of the text that make it certain.
        level: Its level where the beginning says it already; -1 where not.
    """

    known: int
    level: int


def start_of_record(text: str, first: int, stop: int) -> Start | None:
    """Where the line `text[first:stop]` is known to begin a record, if it does so in a known format."""
    found = [match for start in _STARTS if (match := start.match(text, first, stop))]
    if not found:
        return None
    match = min(found, key=re.Match.end)
    groups = match.groupdict()
    if groups.get("priority"):
        return Start(match.end(), _SEVERITIES[int(groups["priority"]) % 8])
    return Start(match.end(), _LETTERS[groups["letter"]] if groups.get("letter") else -1)


def find_time(text: str, first: int, stop: int) -> tuple[int, int] | None:
    """The time in a record's first line: the character that makes it certain, and its end."""
    stop = min(stop, first + _TIME_COLUMNS)
    best, limit = None, stop
    for expression in _TIMES:
        # only what is certain earlier than the best so far is of interest
        match = expression.search(text, first, limit)
        if match and (best is None or match.end("head") < limit):
            best = expression.match(text, match.start(), stop)
            limit = match.end("head")
    keyed = _KEYED_TIME.search(text, first, stop)
    span = keyed.span("quoted" if keyed.group("quoted") else "bare") if keyed else None
    if best is None or (span is not None and span[0] < limit):
        return span
    return best.end("head") - 1, best.end()


def find_level(text: str, first: int, stop: int) -> tuple[int, int] | None:
    """The level in a record's first line: the first character at which it is known, and its value.

    That is the character after the word, for only then is the word over.

    Args:
        text: The text, which may stop anywhere.
        first: Where the record begins.
        stop: Where the line ends, its line ending included.
    """
    stop = min(stop, first + _LEVEL_COLUMNS)
    found: list[tuple[int, int]] = []
    for word in _WORD.finditer(text, first, stop):
        value = _VALUES.get(word.group().lower())
        if value is not None and word.end() < stop and (known := _known_level(text, first, word, stop)):
            found.append((known, value))
            break
    if number := _NUMBER.search(text, first, stop):
        found.append((number.end(), _NUMBERS[number.group(1)]))
    if status := _STATUS.search(text, first, stop):
        value = {"4": LEVELS["warning"], "5": LEVELS["error"]}.get(status.group(1), LEVELS["info"])
        found.append((status.end(), value))
    return min(found, default=None)


def _known_level(text: str, first: int, word: re.Match[str], stop: int) -> int:
    """The character by which a level's name is known to stand for the record's level; 0 where it does not."""
    end = word.end()
    before, after = text[word.start() - 1] if word.start() > first else " ", text[end]
    if word.group().isupper() and before in _BEFORE_CAPITALS and after in _AFTER_CAPITALS:
        return end  # `INFO  [main]`, `| ERROR |`, `npm ERR!`
    if before in _OPENING and after in _CLOSING:
        return end  # `[error]`, `[core:warn]`
    if after in _AFTER_VALUE and _KEY.search(text, max(first, word.start() - _KEY_COLUMNS), word.start()):
        return end  # `level=error`, `"severity": "WARNING"`
    # `warning: unused`, and not `error::Kind`
    blank = before in " \t" and after == ":" and end + 1 < stop and text[end + 1] in " \t\r\n"
    return end + 1 if blank else 0
