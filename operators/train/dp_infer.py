"""The models that train/deepmd made, for use in this process. Runs beside DeePMD-kit, without this package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from operators.core import Model


def models(product: Path) -> dict[str, Model]:
    """The frozen models of a committee, by file name.

    Raises
    ------
    RuntimeError
        When DeePMD-kit is not installed here, or cannot load a model.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("OMP_NUM_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS"):
        os.environ.setdefault(name, str(len(os.sched_getaffinity(0))))
    try:
        from deepmd.infer import DeepPot
    except ImportError as error:
        raise RuntimeError(
            f'the models need DeePMD-kit, which is not installed here ({error}): pip install "dpgen2-sm[local]" '
            "(models of PyTorch, .pth: dpgen2-sm[pytorch])"
        ) from None
    found: dict[str, Model] = {}
    for path in sorted(path for path in product.glob("graph.*") if path.suffix in (".pb", ".pth")):
        try:
            found[path.name] = _model(DeepPot(str(path)))
        except Exception as error:  # DeePMD-kit's and its backend's own
            raise RuntimeError(f"DeePMD-kit cannot load {path.name}: {str(error) or type(error).__name__}") from None
    return found


def _model(potential: Any) -> Model:
    index = {symbol: number for number, symbol in enumerate(potential.get_type_map())}

    def model(symbols: list[str], positions: Any, cells: Any) -> tuple[Any, Any, Any]:
        energies, forces, virials = potential.eval(positions, cells, [index[symbol] for symbol in symbols])[:3]
        return energies.reshape(-1), forces.reshape(positions.shape), virials.reshape(-1, 3, 3)

    return model
