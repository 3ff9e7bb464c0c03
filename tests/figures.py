"""The figures of docs/reliability.md: told by the tests that measure them, never written by hand.

A test takes the fixture `figure` and calls `figure("group: what", count)`. With `pytest --figures` the table is
written; without it a count that differs from the table fails its test, so that the page cannot drift. What no two
runs have in common (kills of a soak) is told with `exact=False`: it is written, not compared.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: written by the tests -->\n", "<!-- end of the figures -->\n"
_ROW = re.compile(r"^\| (.+?) \| (.+?) \| ([0-9,]+) \|$", re.MULTILINE)


class Figures:
    """The table, and what this run adds to it."""

    def __init__(self, writing: bool, added: Path) -> None:
        self.writing, self.added = writing, added

    def __call__(self, name: str, count: int, exact: bool = True) -> None:
        if self.writing:
            with open(self.added, "a", encoding="utf-8") as stream:
                stream.write(f"{name}\t{count}\n")
            return
        told = table().get(name)
        assert told is not None, f"docs/reliability.md has no figure {name!r}: run `make figures`"
        assert not exact or told == count, f"docs/reliability.md says {told} for {name!r}, not {count}: `make figures`"


def table() -> dict[str, int]:
    """What the page says, by name."""
    part = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    return {f"{group}: {what}": int(count.replace(",", "")) for group, what, count in _ROW.findall(part)}


def write(added: Path) -> None:
    """Put the figures of a run into the page; those of tests that did not run stay."""
    lines = (line.split("\t") for line in added.read_text("utf-8").splitlines())
    figures = {**table(), **{name: int(count) for name, count in lines}}
    rows = [f"| {name.replace(': ', ' | ', 1)} | {count:,} |" for name, count in sorted(figures.items())]
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    text = "\n".join(["| what | figure | count |", "| --- | --- | ---: |", *rows])
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{after}", "utf-8")


def option(parser: pytest.Parser) -> None:
    parser.addoption("--figures", action="store_true", help="write the tests' figures into docs/reliability.md")


def _gathered(config: pytest.Config) -> Path:
    """Where all processes of a session add theirs."""
    return config.rootpath / ".figures"


def _first(config: pytest.Config) -> bool:
    return bool(config.getoption("--figures")) and not hasattr(config, "workerinput")


def begin(session: pytest.Session) -> None:
    if _first(session.config):
        _gathered(session.config).unlink(missing_ok=True)


def finish(session: pytest.Session) -> None:
    gathered = _gathered(session.config)
    if _first(session.config) and gathered.exists():
        write(gathered)
        gathered.unlink()


@pytest.fixture(scope="session")
def figure(request: pytest.FixtureRequest) -> Figures:
    return Figures(request.config.getoption("--figures"), _gathered(request.config))
