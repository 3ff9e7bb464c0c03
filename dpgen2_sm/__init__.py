"""The installed program. This is the only name that an installation takes in a Python environment.

The packages `statemachine`, `operators` and `conventions` are installed in this folder, as others have packages of such
names (python-statemachine has). They are found by those processes only that call `use()`.
"""

from __future__ import annotations

import sys
from pathlib import Path


def use() -> None:
    """Let this process import `statemachine`, `operators` and `conventions`, before any others of these names."""
    here = Path(__file__).parent
    home = here if (here / "statemachine").is_dir() else here.parent  # a checkout has them beside this folder
    sys.path.insert(0, str(home))


def main() -> None:
    """Entry point of `dpgen2-sm`."""
    use()
    from statemachine.cli import main as cli

    cli()


def lmp() -> None:
    """Entry point of `dpgen2-lmp`."""
    use()
    from operators.explore.wheel import main as wheel

    wheel()
