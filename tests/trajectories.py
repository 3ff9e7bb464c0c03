"""Short labelled trajectories of copper in the formats of several programs: what dpdata reads of each, and no more."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import dpdata
import numpy as np

CELL = 4.0  # Angstrom
BOHR = 0.52917721067


def frames(number: int, atoms: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """Frames that all differ: coords, forces (atoms, 3) in Angstrom and eV/Angstrom, energy in eV."""
    random = np.random.default_rng([seed, atoms])
    return [
        {
            "coords": random.uniform(0, CELL, (atoms, 3)).round(4),
            "forces": random.uniform(-1, 1, (atoms, 3)).round(4),
            "energy": -float(index + 1),
        }
        for index in range(number)
    ]


def table(values: Any) -> str:
    return "".join(" ".join(f"{value:14.8f}" for value in row) + "\n" for row in values)


def outcar(path: Path, found: list[dict[str, Any]], unconverged: Collection[int] = (), nelm: int = 3) -> None:
    """VASP's OUTCAR; the frames `unconverged` took all `nelm` electronic steps."""
    atoms = len(found[0]["coords"])
    text = f" TITEL  = PAW_PBE Cu 22Jun2005\n ions per type = {atoms}\n NWRITE = 2\n NELM   = {nelm};\n"
    for index, one in enumerate(found):
        steps = nelm if index in unconverged else 1
        text += "".join(f"---- Iteration {index + 1:4d}({step + 1:4d})  ----\n" for step in range(steps))
        cell = table(np.hstack([np.eye(3) * CELL, np.eye(3) / CELL]))
        text += " VOLUME and BASIS-vectors are now :\n" + "-\n" * 4 + cell
        rows = table(np.hstack([one["coords"], one["forces"]]))
        text += f" POSITION                TOTAL-FORCE (eV/Angst)\n ---\n{rows}"
        text += f"  free  energy   TOTEN  = {one['energy']:14.6f} eV\n"
    path.write_text(text)


def vasprun(path: Path, found: list[dict[str, Any]], unconverged: Collection[int] = (), nelm: int = 3) -> None:
    """VASP's vasprun.xml; the frames `unconverged` took all `nelm` electronic steps."""

    def rows(name: str, values: Any) -> str:
        return f'<varray name="{name}">' + "".join(f"<v>{row}</v>" for row in table(values).splitlines()) + "</varray>"

    atoms = "".join("<rc><c>Cu</c><c>1</c></rc>" for _ in found[0]["coords"])
    text = f'<modeling><parameters><i name="NELM">{nelm}</i></parameters>'
    text += f'<atominfo><array name="atoms"><set>{atoms}</set></array></atominfo>'
    for index, one in enumerate(found):
        text += "<calculation>" + "<scstep/>" * (nelm if index in unconverged else 1)
        text += f"<structure><crystal>{rows('basis', np.eye(3) * CELL)}</crystal>"
        text += rows("positions", one["coords"] / CELL) + "</structure>" + rows("forces", one["forces"])
        text += f'<energy><i name="e_fr_energy">{one["energy"]}</i></energy></calculation>'
    path.write_text(text + "</modeling>")


def cp_traj(folder: Path, name: str, found: list[dict[str, Any]]) -> None:
    """The files of Quantum ESPRESSO's cp.x, which are in atomic units."""
    atoms = len(found[0]["coords"])
    cell = CELL / BOHR
    (folder / f"{name}.in").write_text(
        f"&SYSTEM\n ibrav = 1,\n celldm(1) = {cell},\n nat = {atoms},\n ntyp = 1,\n/\n"
        f"ATOMIC_SPECIES\nCu 63.5 x\nATOMIC_POSITIONS {{bohr}}\n" + "Cu 0 0 0\n" * atoms
    )
    files = {
        "pos": lambda one: table(one["coords"] / BOHR),
        "for": lambda one: table(one["forces"] / (2 * 13.605693 / BOHR)),
        "cel": lambda one: table(np.eye(3) * cell),
    }
    for end, rows in files.items():
        text = "".join(f"{index} 0.0\n{rows(one)}" for index, one in enumerate(found))
        (folder / f"{name}.{end}").write_text(text)
    energies = [[index, 0, 0, 0, 0, one["energy"] / (2 * 13.605693)] for index, one in enumerate(found)]
    (folder / f"{name}.evp").write_text(table(energies))


def extxyz(path: Path, found: list[dict[str, Any]], periodic: bool = True) -> None:
    lattice = f'Lattice="{" ".join(map(str, (np.eye(3) * CELL).ravel()))}" ' if periodic else ""
    text = ""
    for one in found:
        atoms = table(np.hstack([one["coords"], one["forces"]])).splitlines()
        text += f"{len(atoms)}\n{lattice}energy={one['energy']} Properties=species:S:1:pos:R:3:forces:R:3\n"
        text += "".join(f"Cu {row}\n" for row in atoms)
    path.write_text(text)


def system(found: list[dict[str, Any]]) -> dpdata.LabeledSystem:
    """The same as dpdata's system."""
    atoms = len(found[0]["coords"])
    data = {
        "atom_names": ["Cu"],
        "atom_numbs": [atoms],
        "atom_types": np.zeros(atoms, int),
        "orig": np.zeros(3),
        "cells": np.array([np.eye(3) * CELL] * len(found)),
        "coords": np.array([one["coords"] for one in found]),
        "energies": np.array([one["energy"] for one in found]),
        "forces": np.array([one["forces"] for one in found]),
    }
    return dpdata.LabeledSystem(data=data)
