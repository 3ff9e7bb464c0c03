"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def _ours(target: Any) -> Any:
    """Read a JSON file first: to who types DP-GEN's two files, `unexpected argument` says nothing."""
    path = Path(target)
    if path.suffix == ".json" and path.is_file():
        from statemachine.run.config_file import read_mapping

        read_mapping(path)
    return target


Target = Annotated[
    str, typer.Argument(metavar="RUN", help="Configuration file, folder or URL of the run.", callback=_ours)
]
ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="Configuration file (YAML or JSON).", callback=_ours)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Interval = Annotated[float, typer.Option(help="Seconds between two checks of a running workflow.", min=0.05, max=86400)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Reason = Annotated[str, typer.Option(help="Kept in the history.")]


def checked(config: Path) -> Any:
    """The configuration of a file; what a person should know of it is said."""
    from statemachine.run.config_file import notes, read_config

    found = read_config(config)
    for note in notes(found):
        typer.echo(f"note: {note}", err=True)
    return found
