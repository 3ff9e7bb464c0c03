"""Which frames of labelled data are used: every n-th of a file, and none whose structure an earlier frame has. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ATOMS_AT_ONCE = 500_000


@dataclass
class Thinning:
    """The frames that `init.data.{name}` asks for, chosen file by file.

    Attributes
    ----------
    every
        Of each file the first frame, and then every so many-th.
    unique
        Whether a frame is left out if an earlier one has the same structure (`operators.frame_keys`).
    read, repeated
        How many frames there were, and how many were left out because of `unique`.
    """

    every: int
    unique: bool
    read: int = 0
    repeated: int = 0
    _known: set[bytes] = field(default_factory=set)

    def thin(self, parts: Iterable[Any]) -> list[Any]:
        """dpdata's systems of one file, which has their frames in this order, with the chosen frames; none is empty.

        Raises
        ------
        numpy.linalg.LinAlgError
            When frames are to be compared, and a cell has no volume.
        """
        import numpy as np

        found, before = [], 0
        for part in parts:
            frames = part.get_nframes()
            chosen = np.arange(-before % self.every, frames, self.every)
            before += frames
            if self.unique:
                chosen = chosen[self._new(part, chosen)]
            if len(chosen):
                found.append(part if len(chosen) == frames else part.sub_system(chosen))
        self.read += before
        return found

    def _new(self, part: Any, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these frames have a structure that none before them has, shape (frames,)."""
        import numpy as np

        from operators.frame_keys import atomic_numbers, keys

        numbers = atomic_numbers(part.data["atom_names"])[part.data["atom_types"]]
        size = max(1, _ATOMS_AT_ONCE // len(numbers))
        new = np.zeros(len(frames), bool)
        for start in range(0, len(frames), size):
            chunk = frames[start : start + size]
            cells = None if part.nopbc else part.data["cells"][chunk]
            for place, key in enumerate(keys(numbers, cells, part.data["coords"][chunk]), start):
                new[place] = key not in self._known
                self._known.add(key)
        self.repeated += int(np.count_nonzero(~new))
        return new
