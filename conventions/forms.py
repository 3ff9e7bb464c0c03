"""The forms of texts in words: what a person reads instead of a regular expression."""

from __future__ import annotations

_WORDS: dict[str, str] = {}


def form(pattern: str, words: str) -> str:
    """A pattern for `Field(pattern=...)`, with the words that an error has for it: what is expected, and an example."""
    if _WORDS.setdefault(pattern, words) != words:
        raise ValueError(f"{pattern} has other words already")
    return pattern


DIGEST = form(r"^[0-9a-f]{64}$", "64 hexadecimal digits, as sha256sum prints them")
IDENTIFIER = form(r"^[A-Za-z_][A-Za-z0-9_]*$", "letters, digits and '_', not beginning with a digit: OMP_NUM_THREADS")


def form_error(text: object, pattern: str) -> str:
    """What is said of a text that does not have the form.

    >>> form_error("a b", form("^[a-z]+$", "lower-case letters: abc"))
    "'a b' is not valid; expected: lower-case letters: abc"
    """
    shown = repr(text) if len(repr(text)) <= 80 else f"{repr(text)[:77]}..."
    return f"{shown} is not valid; expected: {_WORDS[pattern]}"


def printable(text: str, kept: str = "\n\t") -> str:
    r"""A text that somebody else wrote, without what would command a terminal.

    Examples
    --------
    >>> printable("a\x1b[2Jb\n")
    'a\ufffd[2Jb\n'
    """
    return "".join(char if char.isprintable() or char in kept else "\ufffd" for char in text)
