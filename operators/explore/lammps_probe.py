"""For `dpgen2-sm doctor`: whether a LAMMPS can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conventions.config import RunConfig
from operators.setup import with_setup
from operators.sums import user_file

# What begins an error does not change from version to version; its end names a file of LAMMPS's source.
PROBE = """\
COMMAND -in probe.in -log none >said 2>&1
if grep -q 'ERROR: Illegal pair_style' said; then
  grep -m 1 '^LAMMPS (' said || echo LAMMPS
elif grep -q 'ERROR: Unrecognized pair style' said; then
  echo "this LAMMPS has no pair_style deepmd: take one that was built with DeePMD-kit, or let explore.setup set" \
    "LAMMPS_PLUGIN_PATH to the folder of DeePMD-kit's plugin"
  exit 1
else
  grep -m 1 ERROR said || tail -n 1 said
  exit 1
fi
"""


def probe(config: RunConfig, files: Path) -> dict[str, str | bytes]:
    """Whether LAMMPS knows `pair_style deepmd`: then it complains of the missing models only."""
    explore: Any = config.explore
    groups = [group for stage in explore.stages for group in stage if group.template]
    texts = [user_file(files, group.template.root).read_text("utf-8", "replace") for group in groups]
    plugins = [line for text in texts for line in text.splitlines() if line.split()[:2] == ["plugin", "load"]]
    box = ["units metal", "atom_style atomic", "region box block 0 1 0 1 0 1", "create_box 1 box"]
    lines = [*dict.fromkeys(plugins), *box, "pair_style deepmd", ""]
    return {
        "run.sh": with_setup(explore, PROBE.replace("COMMAND", explore.command or "lmp")),
        "probe.in": "\n".join(lines),
    }
