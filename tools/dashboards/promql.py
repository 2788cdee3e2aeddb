"""What a PromQL expression names: selectors with their matchers, and the labels that it groups and joins by.

Reads tokens, not grammar: whether an expression is right is Prometheus's to say. It wants `sum by (…) (…)`, with the labels
before what is summed, as all expressions here are written.
"""

import re
from dataclasses import dataclass

TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<range>\[[^\]]*\])
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?:[smhdwy]|ms)?(?![\w:]))
      | (?P<name>\$?[a-zA-Z_:][\w:]*)
      | (?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},@])""",
    re.VERBOSE,
)

AGGREGATIONS = {
    "sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile",
}  # fmt: skip
GROUPINGS = {"by", "without"}
JOINS = {"on", "ignoring", "group_left", "group_right"}
WORDS = GROUPINGS | JOINS | {"and", "or", "unless", "bool", "offset", "inf", "nan"}

Token = tuple[str, str]


class Unreadable(ValueError):
    """An expression that is not written as this module reads them."""


@dataclass(frozen=True)
class Matcher:
    """One label's condition, e.g. `outcome=~"lost|late"`."""

    label: str
    sign: str
    value: str

    def __str__(self) -> str:
        return f"{self.label}{self.sign}{self.value}"


@dataclass(frozen=True)
class Selector:
    """A metric with its matchers; ranges and offsets are left out."""

    metric: str
    matchers: tuple[Matcher, ...] = ()

    def __str__(self) -> str:
        return self.metric + ("{" + ",".join(map(str, self.matchers)) + "}" if self.matchers else "")


@dataclass(frozen=True)
class Grouping:
    """Labels of `by (…)` or `on (…)`, and the selectors that they must stand on."""

    word: str
    labels: tuple[str, ...]
    selectors: tuple[Selector, ...]


@dataclass(frozen=True)
class Expression:
    """What an expression names."""

    selectors: tuple[Selector, ...]
    groupings: tuple[Grouping, ...]


def tokens_of(text: str) -> list[Token]:
    """The tokens of an expression, without space and comments.

    Raises `Unreadable` at a character that begins none.
    """
    tokens, place = [], 0
    while place < len(text):
        found = TOKEN.match(text, place)
        if not found:
            raise Unreadable(f"{text[place : place + 20]!r} is not understood")
        if found.lastgroup != "space":
            tokens.append((str(found.lastgroup), found.group()))
        place = found.end()
    return tokens


def read(text: str) -> Expression:
    """What an expression names.

    Raises `Unreadable`.
    """
    tokens = tokens_of(text)
    groupings = []
    for place, (kind, word) in enumerate(tokens):
        if kind != "name" or word not in GROUPINGS | JOINS or not _is(tokens, place + 1, "("):
            continue
        end = _closing(tokens, place + 1)
        labels = tuple(name for kind, name in tokens[place + 2 : end] if kind == "name")
        scope = tokens
        if word in GROUPINGS:
            if not _is(tokens, end + 1, "(") or tokens[place - 1][1] not in AGGREGATIONS:
                raise Unreadable(f"write `sum {word} (…) (…)`, the labels before what is summed")
            scope = tokens[end + 2 : _closing(tokens, end + 1)]
        groupings.append(Grouping(word, labels, tuple(_selectors(scope))))
    return Expression(tuple(_selectors(tokens)), tuple(groupings))


def _is(tokens: list[Token], place: int, text: str) -> bool:
    return place < len(tokens) and tokens[place][1] == text


def _closing(tokens: list[Token], opening: int) -> int:
    """Where the bracket is closed that is opened there."""
    depth = 0
    for place in range(opening, len(tokens)):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(tokens[place][1], 0)
        if depth == 0:
            return place
    raise Unreadable("a bracket is not closed")


def _selectors(tokens: list[Token]) -> list[Selector]:
    found, place = [], 0
    while place < len(tokens):
        kind, word = tokens[place]
        place += 1
        if kind != "name" or word.startswith("$"):
            continue
        if word.lower() in WORDS or word in AGGREGATIONS or _is(tokens, place, "("):
            # The labels of a grouping are no metrics.
            if word in GROUPINGS | JOINS and _is(tokens, place, "("):
                place = _closing(tokens, place) + 1
            continue
        matchers: list[Matcher] = []
        if _is(tokens, place, "{"):
            end = _closing(tokens, place)
            matchers = _matchers(tokens[place + 1 : end])
            place = end + 1
        found.append(Selector(word, tuple(matchers)))
    return found


def _matchers(tokens: list[Token]) -> list[Matcher]:
    found = []
    for place in range(0, len(tokens), 4):
        part = tokens[place : place + 4]
        if len(part) < 3 or part[0][0] != "name" or part[2][0] != "string" or (len(part) == 4 and part[3][1] != ","):
            raise Unreadable("matchers are `label=\"value\"`, parted by commas")
        found.append(Matcher(part[0][1], part[1][1], part[2][1]))
    return found
