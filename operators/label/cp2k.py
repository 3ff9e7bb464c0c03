"""label/cp2k: energies, forces and virials from CP2K.

The user's own input is the template. CP2K's data files (basis sets, potentials) come from the installation unless
`files` brings them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from conventions.config import RunConfig, UserFile
from operators.sums import user_file

from .frames import Label
from .program import Fill, Program, ProgramConfig, read_text

if TYPE_CHECKING:
    from ase import Atoms

    from .cp2k_input import Section

INPUT = "input.inp"

# An input that CP2K cannot read ends with [ABORT] too: that is no result.
GAVE_UP = """\
/^ *SCF PARAMETERS/ { begun = 1 }
    begun && /\\[ABORT\\]/ { gave_up = 1 }
    END { exit !gave_up }"""

# Debian and others compile the folder of the data files in; CP2K tells it in its flags, broken into lines.
PROBE = """\
COMMAND --version >version 2>&1 || { tail -n 3 version; exit 1; }
folder=$(sed -e :a -e N -e '$!ba' -e 's/\\n   //g' version | sed -n 's/.*__DATA_DIR="\\([^"]*\\)".*/\\1/p')
folder=${CP2K_DATA_DIR:-$folder}
while read -r file; do
  [ ! -d "$folder" ] || [ -e "$folder/$file" ] || {
    echo "$file, which label.input names, is not in CP2K's data folder $folder: give it in label.files"
    exit 1
  }
done <data_files
sed -n 's/^ *\\(CP2K version [^ ]*\\).*/\\1/p' version
"""


class Cp2kConfig(ProgramConfig):
    """Labels from CP2K."""

    app: Literal["cp2k"] = "cp2k"
    input: UserFile = Field(
        description="Your CP2K input: any method, with &FORCE_EVAL / &PRINT / &FORCES ON. The run puts each frame's "
        "cell and coordinates into it and sets RUN_TYPE ENERGY_FORCE."
    )
    files: list[UserFile] = Field([], description="Further files: @INCLUDEs of the input, basis sets, potentials.")


def fill_input(config: RunConfig, files: Path) -> Fill:
    """What puts a frame into the user's input."""
    from .cp2k_input import fill

    template = read_input(config.label, files)
    return lambda atoms: {INPUT: fill(template, atoms)}


def read_input(label: Any, files: Path) -> Section:
    """The user's input, ready to be filled."""
    from .cp2k_input import read_template

    # Latin-1 reads every byte: what a data file holds matters only if the input includes it.
    included = {file.name: user_file(files, file.root).read_text("latin-1") for file in label.files}
    where = f"label.input ({label.input.name})"
    return read_template(read_text(label.input, files, where), included, where)


def probe_files(config: RunConfig, files: Path) -> dict[str, str | bytes]:
    """The data files that CP2K's installation must have."""
    from .cp2k_input import data_files

    label: Any = config.label
    brought = {file.name for file in label.files}
    names = [name for name in data_files(read_input(label, files)) if name not in brought]
    return {"data_files": "".join(f"{name}\n" for name in names)}


def read(text: str, atoms: Atoms) -> Label:
    from .cp2k_output import read_output

    return read_output(text, atoms.get_chemical_symbols(), atoms.get_volume())


def said(text: str) -> str:
    from .cp2k_output import abort_message

    return abort_message(text)


PROGRAM = Program(
    name="cp2k",
    config=Cp2kConfig,
    command="cp2k.psmp",
    call="COMMAND -i input.inp -o output.log",
    inputs=(INPUT,),
    output="output.log",
    gave_up=GAVE_UP,
    fill=fill_input,
    read=read,
    said=said,
    probe=PROBE,
    probe_files=probe_files,
)
APP = PROGRAM.app()
