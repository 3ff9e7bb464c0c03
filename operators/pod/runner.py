"""The in-pod runner of Python operators. Standard library only; never imports dflow.

Shipped as `.dflow/python/fn/{hash}.py` with these lines put before it:

    OPERATOR = "operators.train.deepmd:plan"
    PACKAGES = {"operators": "<sha256 of its zip>", ...}
    APPS = {"label.other": "other_label:APP", ...}      apps of third parties, which a pod has not installed

The environment names the places: `ARTIFACT_{name}`, `PARAM_{name}` (JSON), `LIST_{name}` (a file of JSON, with its
`SHA256_{name}`), `RESULT_{name}` (a file to write JSON to) and `PACKAGE_{name}` (the zip of a shipped package). Of a
workflow's last step also `DPGEN2_HINT_URL`, where the daemon is told that the workflow ends, and `DPGEN2_HINT_NAME`.
"""

import hashlib
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, get_type_hints


def verify(packages: dict[str, str], archives: dict[str, str]) -> dict[str, bytes]:
    """Read the shipped packages; exit unless their hashes are the ones that were submitted."""
    found = {name: Path(archives[name]).read_bytes() for name in packages}
    for name, digest in packages.items():
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise SystemExit(f"shipped package {name} is not the one that was submitted (sha256 differs); not run")
    return found


def load(operator: str, packages: dict[str, str], archives: dict[str, str], folder: Path) -> Any:
    """Import an operator from packages whose hashes are verified first.

    What was verified is what is run: imports read from a copy in `folder`, for an archive may be the store's own file.
    """
    for name, data in verify(packages, archives).items():
        (folder / f"{name}.zip").write_bytes(data)
        sys.path.insert(0, str(folder / f"{name}.zip"))
    module, _, name = operator.partition(":")
    return getattr(importlib.import_module(module), name)


def run(operator: Any) -> None:
    """Call the operator with what the environment says, write its results, and tell the daemon where that is asked."""
    params_type, context_type, _ = operator_types(operator)
    texts = {name: json.loads(text) for name, text in given("PARAM_").items()}
    params = params_type(**texts, **{name: read_list(name, Path(text)) for name, text in given("LIST_").items()})
    paths = {name: Path(text) for name, text in given("ARTIFACT_").items()}
    fields = context_type.__dataclass_fields__
    result = operator(params, context_type(**{name: paths.get(name, Path("/nonexistent")) for name in fields}))
    for name, text in given("RESULT_").items():
        path = Path(text)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(getattr(result, name)))
    if "DPGEN2_HINT_URL" in os.environ:
        hint = importlib.import_module("operators.pod.hint")
        hint.notify(os.environ["DPGEN2_HINT_URL"], os.environ["DPGEN2_HINT_NAME"])


def read_list(name: str, path: Path) -> Any:
    """A parameter that travels as a file."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != os.environ[f"SHA256_{name}"]:
        raise SystemExit(f"the list {name} is not the one that was submitted (sha256 differs)")
    return json.loads(data)


def operator_types(operator: Any) -> tuple[Any, Any, Any]:
    """The three dataclasses of `operator(in_params, ctx) -> out_params`."""
    first, second, result = get_type_hints(operator).values()
    return first, second, result


def given(prefix: str) -> dict[str, str]:
    """Variables of the environment that begin with `prefix`, without it."""
    return {name[len(prefix) :]: text for name, text in os.environ.items() if name.startswith(prefix)}


def main() -> None:
    here = globals()
    os.environ["DPGEN2_APPS"] = json.dumps(here["APPS"])
    with tempfile.TemporaryDirectory() as folder:
        run(load(here["OPERATOR"], here["PACKAGES"], given("PACKAGE_"), Path(folder)))


if __name__ == "__main__":
    main()
