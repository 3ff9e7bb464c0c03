"""The image, built by buildah and run as users of any number.

Its base cannot be fetched everywhere: a Debian of the same Python version, made by debootstrap, stands in for it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAND_IN = Path.home() / ".cache/dpgen2-sm/python-stand-in"
pytestmark = pytest.mark.servers

Buildah = Callable[..., str]


def call(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


def stand_in() -> Path:
    """A root folder with what the Dockerfile uses of its base: python, pip, and Debian's tools."""
    if not STAND_IN.is_dir():
        part = STAND_IN.with_suffix(f".{os.getpid()}")
        part.parent.mkdir(parents=True, exist_ok=True)
        packages = "python3,python3-venv,ca-certificates"
        call("debootstrap", "--variant=minbase", f"--include={packages}", "trixie", part)
        call("chroot", part, "python3", "-m", "venv", "/usr/local")
        part.rename(STAND_IN)
    return STAND_IN


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """Run buildah on storage of its own."""
    for program in ("buildah", "debootstrap"):
        if shutil.which(program) is None and not os.environ.get("CI"):
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("debootstrap and buildah's chroot isolation want root")
    storage = tmp_path_factory.mktemp("storage")
    options = ["--root", storage / "root", "--runroot", storage / "run", "--storage-driver", "vfs"]
    yield lambda command, *arguments: call("buildah", *options, command, *arguments)
    shutil.rmtree(storage, ignore_errors=True)  # gigabytes


@pytest.fixture(scope="module")
def image(buildah: Buildah) -> str:
    """The image's default target."""
    base = buildah("from", "scratch")
    buildah("add", base, stand_in(), "/")
    buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", base)
    buildah("commit", "--rm", base, "localhost/stand-in")
    certificates = "/etc/ssl/certs:/etc/ssl/certs:ro"
    dockerfile = ["--file", ROOT / "deploy/Dockerfile", "--build-arg", "BASE=localhost/stand-in", "--pull-never"]
    buildah("build", "--isolation", "chroot", "--volume", certificates, *dockerfile, "--tag", "localhost/made", ROOT)
    return "localhost/made"


def test_an_app_of_a_users_own_is_added_as_the_readme_says(buildah: Buildah, image: str, tmp_path: Path) -> None:
    (text,) = re.findall(r"^```dockerfile\n(.*?)^```$", (ROOT / "deploy/README.md").read_text("utf-8"), re.M | re.S)
    build, target = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    (tmp_path / "Dockerfile").write_text(text.replace(build, "localhost/stand-in").replace(target, image))
    (tmp_path / "dist").mkdir()
    write_wheel(tmp_path / "dist", "label_program", "[dpgen2_sm.apps]\nlabel.program = label_program:APP\n")
    buildah("build", "--isolation", "chroot", "--pull-never", "--tag", "localhost/more", tmp_path)
    container = buildah("from", "--pull-never", "localhost/more")
    shown = buildah("run", "--isolation", "chroot", container, "--", "dpgen2-sm", "doctor")
    assert "label.program" in shown and "label.cp2k" in shown


def write_wheel(folder: Path, name: str, entry_points: str) -> None:
    """A wheel of a module, as `pip wheel` makes it."""
    info = f"{name}-1.0.dist-info"
    texts = {
        f"{name}.py": "APP = None\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": entry_points,
    }
    texts[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*texts, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, content in texts.items():
            wheel.writestr(path, content)


@pytest.mark.parametrize("user", ["10001:10001", "54321:0"])
def test_it_runs_as_any_user(buildah: Buildah, image: str, user: str) -> None:
    container = buildah("from", "--pull-never", image)

    def inside(*command: str) -> str:
        return buildah("run", "--isolation", "chroot", "--user", user, container, "--", *command)

    assert "explore.lammps" in inside("dpgen2-sm", "doctor")
    modules = "boto3, dflow, dpdispatcher, httpx, prometheus_client, ase, dpdata"
    assert inside("python3", "-c", f"import getpass, {modules}; print(getpass.getuser())") == "dpgen2-sm"
    for program in ("sha256sum", "awk", "find"):
        assert inside("sh", "-c", f"command -v {program}")
    for program in ("pip", "gcc", "make"):
        assert inside("sh", "-c", f"command -v {program} || echo none") == "none"
    places = "-not -path '/proc*' -not -path '/dev*' -not -path '/tmp/*'"
    writable = inside("sh", "-c", f"find / -xdev -type d -writable {places} 2>/dev/null; true")
    assert set(writable.splitlines()) <= {"/tmp", "/var/tmp", "/var/mail", "/run/lock", "/var/lib/dpgen2-sm"}
