"""The language of `filter=` and `query=`: comparisons or words, joined by AND, OR, NOT and parentheses.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from labfs.sandbox.odm.answers import Item, Refusal

Test = Callable[[Item], bool]

_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign>&&|\|\||!=|[=<>()])|(?P<word>(?:(?!&&|\|\|)[^\s()=<>!"])+))', re.DOTALL
)
_JOINS = {"&&": "AND", "AND": "AND", "||": "OR", "OR": "OR"}
DEEPEST = 100  # parentheses and negations
_OPERATORS = ("=", "!=", "<", ">")

# A small dictionary: words that mean the same, and words with narrower ones below them.
SYNONYMS = ({"human", "homo sapiens"}, {"mouse", "mus musculus"}, {"stool", "feces", "faeces"})
NARROWER = {"body fluid": {"blood", "saliva", "plasma"}, "mammal": {"human", "homo sapiens", "mouse", "mus musculus"}}


def matcher(filter_text: str | None, query_text: str | None, specific: bool = False) -> Test | None:
    """Return the test that both texts stand for; None where neither is given. Raises Refusal."""
    tests = []
    if filter_text:
        tests.append(_Reader(filter_text, _comparison).whole())
    if query_text:
        tests.append(_Reader(query_text, lambda reader: _word(reader, specific)).whole())
    return (lambda item: all(test(item) for test in tests)) if tests else None


class _Reader:
    """Reads an expression by descent; NOT binds closest, then AND, then OR."""

    def __init__(self, text: str, atom: Callable[[_Reader], Test]) -> None:
        self._tokens = list(_tokens(text))
        self._atom = atom
        if sum(value in ("(", "NOT") for _, value in self._tokens) > DEEPEST:
            raise Refusal(400, "Cannot parse the query: it is too deep.")

    def whole(self) -> Test:
        test = self._either()
        if self._tokens:
            raise Refusal(400, f"Cannot parse the query at “{self._tokens[0][1]}”.")
        return test

    def peek(self) -> str | None:
        """Return the next token if it is a sign or a join word, in its upper-case form."""
        if not self._tokens or self._tokens[0][0] == "text":
            return None
        return _JOINS.get(self._tokens[0][1], self._tokens[0][1])

    def take(self, *kinds: str) -> str:
        if not self._tokens or self._tokens[0][0] not in kinds:
            raise Refusal(400, "Cannot parse the query: it ends too soon or in a wrong place.")
        return self._tokens.pop(0)[1]

    def _either(self) -> Test:
        tests = [self._both()]
        while self.peek() == "OR":
            self._tokens.pop(0)
            tests.append(self._both())
        return lambda item: any(test(item) for test in tests)

    def _both(self) -> Test:
        tests = [self._one()]
        while self._tokens and self.peek() not in ("OR", ")"):
            if self.peek() == "AND":
                self._tokens.pop(0)
            elif self._atom is _comparison:
                break  # comparisons are joined by words, terms of a query may stand side by side
            tests.append(self._one())
        return lambda item: all(test(item) for test in tests)

    def _one(self) -> Test:
        if self.peek() == "NOT":
            self._tokens.pop(0)
            inner = self._one()
            return lambda item: not inner(item)
        if self.peek() == "(":
            self._tokens.pop(0)
            test = self._either()
            if self.peek() != ")":
                raise Refusal(400, "Cannot parse the query: a parenthesis is not closed.")
            self._tokens.pop(0)
            return test
        return self._atom(self)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, text = 0, text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise Refusal(400, f"Cannot parse the query at “{text[at : at + 20]}”.")
        kind = str(found.lastgroup)
        value = found[kind]
        yield kind, re.sub(r"\\(.)", r"\1", value[1:-1]) if kind == "text" else value
        at = found.end()


def _comparison(reader: _Reader) -> Test:
    key, operator = reader.take("text", "word"), reader.take("sign")
    if operator not in _OPERATORS:
        raise Refusal(400, f"Unknown operator “{operator}”.")
    wanted = reader.take("text", "word")
    if operator in "<>":
        return _numeric(key, wanted, operator)
    pattern = re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in wanted), re.DOTALL)

    def equal(item: Item) -> bool:
        return any(pattern.fullmatch(text) for text in _texts(item.get(key)))

    return equal if operator == "=" else lambda item: not equal(item)


def _numeric(key: str, wanted: str, operator: str) -> Test:
    try:
        bound = float(wanted)
    except ValueError:
        raise Refusal(400, f"“{wanted}” is not a number.") from None

    def test(item: Item) -> bool:
        value = item.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return value < bound if operator == "<" else value > bound

    return test


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def _word(reader: _Reader, specific: bool) -> Test:
    term = reader.take("text", "word").lower()
    terms = {term}.union(*(group for group in SYNONYMS if term in group))
    if specific:
        terms |= NARROWER.get(term, set())
    edges = [re.compile(r"(?<!\w)" + _loose(each) + r"(?!\w)", re.DOTALL) for each in terms]

    def test(item: Item) -> bool:
        text = "\n".join(text for value in item.values() for text in _texts(value)).lower()
        return any(edge.search(text) for edge in edges)

    return test


def _loose(term: str) -> str:
    return "".join({"*": r"\w*", "?": r"\w"}.get(c, re.escape(c)) for c in term)
