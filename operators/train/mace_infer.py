"""The models that train/mace made, for use in this process. Runs beside MACE, without this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from operators.core import Model


def models(product: Path) -> dict[str, Model]:
    """The models of a committee, by file name.

    Raises
    ------
    RuntimeError
        When MACE is not installed here, or cannot load a model.
    """
    calculator()
    return {path.name: model(path) for path in sorted(product.glob("mace.*.model"))}


def calculator() -> Any:
    """MACE's class for ASE."""
    try:
        from mace.calculators import MACECalculator
    except ImportError as error:
        raise RuntimeError(
            f'the models need MACE, which is not installed here ({error}): pip install "dpgen2-sm[mace]"'
        ) from None
    return MACECalculator


def model(path: Path) -> Model:
    """One model, on a GPU where there is one; see `models`."""
    return _evaluator(_loaded(path))


def energies_of_atoms(path: Path) -> dict[int, float]:
    """E0s of a model by atomic number, eV."""
    (found,) = _loaded(path).models
    energies = found.atomic_energies_fn.atomic_energies.reshape(-1).tolist()
    return dict(zip(found.atomic_numbers.tolist(), energies))  # noqa: B905


def _loaded(path: Path) -> Any:
    of_mace = calculator()
    import torch

    try:
        return of_mace(model_paths=[str(path)], device="cuda" if torch.cuda.is_available() else "cpu")
    except Exception as error:  # PyTorch's and MACE's own
        raise RuntimeError(f"MACE cannot load {path.name}: {str(error) or type(error).__name__}") from None


def _evaluator(calculator: Any) -> Model:
    import numpy as np
    from ase import Atoms

    def evaluate(symbols: list[str], positions: Any, cells: Any) -> tuple[Any, Any, Any]:
        energies, forces, virials = [], [], []
        for number, coordinates in enumerate(positions):
            cell = None if cells is None else cells[number]
            atoms = Atoms(symbols, coordinates, cell=cell, pbc=cell is not None)
            atoms.calc = calculator
            force = atoms.get_forces()
            energies.append(atoms.get_potential_energy())
            forces.append(force)
            if cell is None:  # there is no volume, and nothing but the forces does work on a strain
                virials.append(atoms.positions.T @ force)
            else:
                virials.append(-atoms.get_stress(voigt=False) * atoms.get_volume())
        return np.array(energies), np.array(forces), np.array(virials)

    return evaluate
