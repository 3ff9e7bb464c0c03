"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[str, typer.Argument(metavar="RUN", help="Configuration file, folder or URL of the run.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file (YAML or JSON).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Interval = Annotated[float, typer.Option(help="Seconds between two checks of a running workflow.", min=0.05, max=86400)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Reason = Annotated[str, typer.Option(help="Kept in the history.")]
