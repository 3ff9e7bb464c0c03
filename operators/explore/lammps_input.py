"""The input files of a LAMMPS task: structure, generated input, and the user's own template made to fit.

Units are LAMMPS's metal: Angstrom, ps, K, bar, eV, g/mol. Atom types are the elements of type_map, in that order.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from conventions.errors import ConfigError
from operators.structures import masses

from .task_group import COUPLING
from .trajectory import FORCES, MODEL_DEVI, TRAJECTORY

if TYPE_CHECKING:
    from ase import Atoms

CONF = "conf.lmp"
INPUT = "in.lammps"
PLUMED = "input.plumed"
SEED = "V_SEED"
_PLACEHOLDER = re.compile(r"\bV_[A-Z][A-Z0-9_]*\b")


def write_conf(atoms: Atoms, type_map: Sequence[str], mass_map: Sequence[float] | None) -> str:
    """A LAMMPS data file: cell (also triclinic), masses and positions.

    Parameters
    ----------
    mass_map
        Masses in g/mol, one for each element of type_map; None takes ASE's standard masses.
    """
    from ase import Atoms
    from ase.io.lammpsdata import write_lammps_data

    # A fresh object: an array "type" that came with the file would silently win over type_map.
    clean = Atoms(atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell, pbc=True)
    text = io.StringIO()
    write_lammps_data(text, clean, specorder=list(type_map), atom_style="atomic")
    rows = [
        f"{number} {mass!r} # {name}\n" for number, (name, mass) in enumerate(masses(type_map, mass_map).items(), 1)
    ]
    head, _, body = text.getvalue().partition("Atoms # atomic")
    return f"{head}Masses\n\n{''.join(rows)}\nAtoms # atomic{body}"


def boundary(periodic: bool) -> str:
    """The boundaries of the box. An atom of a molecule that comes to its end is lost: the molecule has broken."""
    return "boundary p p p" if periodic else "boundary f f f"


def pair_style(models: Sequence[str], trj_freq: int, options: str = "") -> str:
    """The line that names the committee and asks for the model deviation."""
    return f"pair_style deepmd {' '.join(models)} out_freq {trj_freq} out_file {MODEL_DEVI}{options}"


def pair_coeff(type_map: Sequence[str]) -> str:
    """Which element each atom type is, and the fix that keeps the first model's forces.

    Without the names a model with another order would be silently wrong. Fixes act in the order of their definition:
    what a bias (PLUMED, a spring) adds later is not in the forces that this one keeps.
    """
    return f"pair_coeff * * {' '.join(type_map)}\nfix {FORCES} all store/force"


def dump(name: str, trj_freq: int) -> str:
    """One dump of all frames, sorted by id, with enough digits to label them, and the first model's forces."""
    forces = " ".join(f"f_{FORCES}[{axis}]" for axis in (1, 2, 3))
    digits = " ".join(f"format {column} %.6g" for column in (6, 7, 8))
    return (
        f"dump {name} all custom {trj_freq} {TRAJECTORY} id type x y z {forces}\n"
        f"dump_modify {name} sort id format float %.10g {digits}"
    )


def make_input(
    *,
    ensemble: str,
    temp: float,
    press: float | None,
    nsteps: int,
    dt: float,
    trj_freq: int,
    tau_t: float,
    tau_p: float,
    seed: int,
    models: Sequence[str],
    type_map: Sequence[str],
    periodic: bool = True,
    epsilon: float | None = None,
    epsilon_v: float | None = None,
) -> str:
    """in.lammps of a plain MD run: temperature in K, pressure in bar, times in ps; relative deviations by epsilon."""
    options = f" relative {epsilon}" if epsilon is not None else ""
    options += f" relative_v {epsilon_v}" if epsilon_v is not None else ""
    thermostat = f"temp {temp} {temp} {tau_t}"
    if ensemble in COUPLING:
        fix = f"npt {thermostat} {COUPLING[ensemble]} {press} {press} {tau_p}"
    else:
        fix = {"nve": "nve", "nvt": f"nvt {thermostat}"}[ensemble]
    lines = [
        "units metal",
        boundary(periodic),
        "atom_style atomic",
        "neighbor 1.0 bin",
        "box tilt large",
        f"read_data {CONF}",
        "change_box all triclinic",
        pair_style(models, trj_freq, options),
        pair_coeff(type_map),
        "thermo_style custom step temp pe ke etotal press vol lx ly lz xy xz yz",
        f"thermo {trj_freq}",
        dump("1", trj_freq),
        f"velocity all create {temp} {seed} mom yes rot {'no' if periodic else 'yes'} dist gaussian",
        f"fix 1 all {fix}",
        f"timestep {dt}",
        f"run {nsteps}",
    ]
    return "\n".join(lines) + "\n"


def revise(text: str, revisions: Mapping[str, object], where: str) -> str:
    """Replace every name of `revisions` that stands alone; a placeholder `V_...` that is left is an error."""
    for name, value in revisions.items():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _, new=str(value): new, text)  # type: ignore[misc]
    left = sorted({name for line in text.splitlines() for name in _PLACEHOLDER.findall(line.partition("#")[0])})
    if left:
        raise ConfigError(f"{where}: {left[0]} has no values; add it to revisions (or call it something without V_)")
    return text


def fit_template(
    text: str, where: str, *, models: Sequence[str], trj_freq: int, type_map: Sequence[str], plumed: bool
) -> str:
    """The user's in.lammps with our files and committee in it, as DP-GEN does it.

    Replaced are: `pair_style deepmd` (models, out_freq, out_file; other options stay), `pair_coeff`, `read_data`'s
    file, the dump called dpgen_dump, and the fix called dpgen_plm. `log` is left out: the job reads log.lammps.

    Raises
    ------
    ConfigError
        When one of these lines is missing or is there twice, or units or atom_style are others than ours.
    """
    found: dict[str, int] = {}
    lines = []

    def first(key: str) -> bool:
        found[key] = found.get(key, 0) + 1
        return found[key] == 1

    for line in re.sub(r"&[ \t]*\r?\n", "", text).splitlines():
        words = line.partition("#")[0].split()
        match words:
            case ["pair_style", style, *options]:
                if style != "deepmd":
                    raise ConfigError(
                        f"{where}: pair_style {style}: only a plain 'pair_style deepmd' gives a deviation"
                    )
                first("pair_style deepmd")
                line = pair_style(models, trj_freq, _other_options(options))
            case ["pair_coeff", *_]:
                line = pair_coeff(type_map) if first("pair_coeff") else ""
            case ["dump", "dpgen_dump", *_]:
                first("dump dpgen_dump")
                line = dump("dpgen_dump", trj_freq)
            case ["fix", "dpgen_plm", *_]:
                first("fix dpgen_plm")
                line = f"fix dpgen_plm all plumed plumedfile {PLUMED} outfile output.plumed"
            case ["read_data", _, *options]:
                first("read_data")
                line = " ".join(["read_data", CONF, *options])
            case ["dump_modify", "dpgen_dump", *_] | ["log", *_]:
                line = ""
            case ["units" | "atom_style", value, *_]:
                first(words[0])
                if value not in ("metal", "atomic"):
                    raise ConfigError(f"{where}: {' '.join(words)}: it must be units metal and atom_style atomic")
        lines.append(line)
    if f"read_data {CONF}" in text:  # inside an `if`, as DPGEN2 writes it
        found.setdefault("read_data", 1)
    needed = ["units", "read_data", "pair_style deepmd", "pair_coeff", "dump dpgen_dump"]
    for key in [*needed, *(["fix dpgen_plm"] if plumed else [])]:
        if key not in found:
            raise ConfigError(f"{where}: it has no line '{key} ...'; add one, its values are filled in")
        if found[key] > 1 and key != "pair_coeff":
            raise ConfigError(f"{where}: it has {found[key]} lines '{key} ...'; exactly one is expected")
    if "fix dpgen_plm" in found and not plumed:
        raise ConfigError(f"{where}: it has a line 'fix dpgen_plm', but no plumed file is given; add plumed")
    if not re.search(r"(?<!\w)(run|minimize)(?!\w)", "\n".join(line.partition("#")[0] for line in lines)):
        raise ConfigError(f"{where}: it has no line 'run ...': nothing would be explored; add one")
    return "\n".join(lines) + "\n"


def for_molecule(text: str) -> str:
    """A template with the boundaries of a molecule instead of its own."""
    return f"{boundary(periodic=False)}\n" + re.sub(r"(?m)^[ \t]*boundary\b.*\n", "", text)


def check_plumed(text: str, where: str) -> None:
    """Raise `ConfigError` for a PLUMED input that does nothing, or of which an action does not end."""
    lines = [words for line in text.splitlines() if (words := line.partition("#")[0].split())]
    if not lines:
        raise ConfigError(f"{where}: it has no action of PLUMED; write one, or leave plumed out")
    begun: list[str] = []
    for words in lines:
        if begun and words[0] == "...":
            begun = []
        elif not begun and words[-1] == "...":
            begun = words
    if begun:
        raise ConfigError(f"{where}: {' '.join(begun)}: no line '...' ends this action; add one")


def _other_options(words: Sequence[str]) -> str:
    """Options of `pair_style deepmd` that are not ours: everything after the models but out_freq and out_file."""
    options: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in ("out_freq", "out_file"):
            next(rest, None)
        elif options or word in _OPTIONS:
            options.append(word)
    return "".join(f" {word}" for word in options)


# https://docs.deepmodeling.com/projects/deepmd/en/stable/third-party/lammps-command.html
_OPTIONS = frozenset(
    "fparam fparam_from_compute fparam_from_fix aparam aparam_from_compute ttm atomic relative relative_v".split()
)
