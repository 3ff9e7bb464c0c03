"""Make the start structures (`data/`) and the independent test set (`test/`), labelled by GFN1-xTB of tblite."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from water import make_frames, write_data


def main() -> None:
    folder = Path(__file__).parent
    if not (folder / "test").exists():
        write_data(*make_frames(), folder)


if __name__ == "__main__":
    main()
