"""Whose word counts: a prefix is data, and who can write to it must not command this process.

What a user said is kept per user and run, as in `known_hosts`: through which server a run is worked on, and which
configurations may run commands on this machine. A file holds lines of JSON, and is only appended to, so that two
processes may write at once. It is in `$XDG_CONFIG_HOME/dpgen2-sm/trust/` (default: ~/.config).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.cluster import ArgoConfig, EngineConfig, LocalConfig, engine_config
from conventions.documents import parse_json
from conventions.errors import CommandRefused, ConfigError, NotTrusted, StateError
from conventions.names import STAGES, sha256
from conventions.state import State
from statemachine.store import Store, local_folder

from .access import POLICY, Access, by_environment, policy
from .configuration import configuration, differences

log = logging.getLogger("dpgen2-sm")


@dataclass(frozen=True)
class Trust:
    """What this user has said of a run: nothing where `engine` is None.

    `run_uid` names the run: with another one's, workflows of that one would be stopped. `configurations` are SHA-256,
    the newest last.
    """

    path: Path
    engine: Access | None
    run_uid: str
    configurations: tuple[str, ...]

    def add(self, engine: Access, run_uid: str, configurations: Iterable[str]) -> None:
        """Remember what is new. Where it cannot be written, that is said, and the question comes again."""
        lines: list[dict[str, Any]] = []
        if (engine, run_uid) != (self.engine, self.run_uid):
            lines.append({"engine": engine.model_dump(), "run_uid": run_uid})
        lines += [{"configuration": sha} for sha in configurations if sha not in self.configurations]
        if not lines:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self.path, "a") as stream:
                stream.write("".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            log.warning("%s cannot be written (%s): what you trust is not remembered", self.path, error.strerror)


def trust_of(url: str) -> Trust:
    """What this user has said of the run at a prefix. Of a bucket the path counts, not the address of its server."""
    folder = local_folder(url)
    name = str(folder.resolve()) if folder else url.partition("?")[0].rstrip("/")
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(home) / "dpgen2-sm" / "trust" / f"{sha256(name.encode())[:32]}.jsonl"
    engine, run_uid, configurations = None, "", []
    try:
        for line in path.read_text("utf-8").splitlines():
            found = json.loads(line)
            if "engine" in found:
                engine, run_uid = Access.model_validate(found["engine"]), str(found["run_uid"])
            else:
                configurations.append(str(found["configuration"]))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be used ({error}); delete it, then `dpgen2-sm trust {url}`") from None
    return Trust(path, engine, run_uid, tuple(configurations))


def remember(url: str, engine: EngineConfig, run_uid: str, configuration: str) -> None:
    """A person's own configuration file is his word."""
    trust_of(url).add(Access.of(engine), run_uid, [configuration])


def inherit(url: str, run_uid: str, before: str, after: str, begun: str = "") -> None:
    """A configuration that a command made of another one is trusted as far as that one is, at the prefix it had."""
    known = trust_of(begun or url)
    if known.engine is not None and before in known.configurations:
        trust_of(url).add(known.engine, run_uid, [after])


def reached(url: str, engine: EngineConfig, run_uid: str) -> LocalConfig | ArgoConfig:
    """The settings with which this process may reach the engine that a run names.

    Raises
    ------
    NotTrusted
        When neither this user nor the environment nor the policy file says so.
    """
    named = Access.of(engine)
    if rules := policy():
        return rules.access(url, named).applied(engine)
    known = trust_of(url)
    if known.engine is None:
        # The local engine runs nothing yet that only a prefix says: see `authorise`.
        return engine if named.type == "local" else by_environment(url, named).applied(engine)
    if lines := list(_changes(known, named, run_uid)):
        raise _refusal(url, "the run has another engine, or is another run, than you trust:", lines)
    return engine


def authorise(store: Store, state: State, first_use: bool) -> None:
    """Let the current configuration run commands on this machine.

    Parameters
    ----------
    first_use
        Trust a run of which this user has said nothing yet, and remember that.

    Raises
    ------
    NotTrusted
        When this user has not said so.
    """
    known, url, sha = trust_of(store.url), store.url, state.config_sha256
    if policy() or sha in known.configurations:
        return
    if known.engine is None and first_use:
        log.warning("%s: used here for the first time; from now on a change of its commands is refused", url)
        known.add(Access(type="local"), state.run_uid, [sha])
        return
    what = "its configuration is none that you trust" if known.engine else "you have neither begun nor used this run"
    raise _refusal(url, f"{what}; its commands are not run here:", _differing(store, state, sha, known))


def news(store: Store, state: State) -> Iterator[str]:
    """What `trust` would add: a line for each value that differs from what this user trusts."""
    known = trust_of(store.url)
    yield from _changes(known, _named(store, state), state.run_uid)
    for sha in filter(None, (state.config_sha256, state.next_config_sha256)):
        if sha not in known.configurations:
            yield from _differing(store, state, sha, known)


def trust(store: Store, state: State) -> None:
    """This user trusts the engine and the configurations that the state names.

    Raises
    ------
    CommandRefused
        Where a policy file decides.
    """
    if policy():
        raise CommandRefused(f"{POLICY} decides here what is trusted: change {os.environ[POLICY]}")
    named, new = _named(store, state), (state.config_sha256, state.next_config_sha256)
    trust_of(store.url).add(named, state.run_uid, filter(None, new))


def _changes(known: Trust, named: Access, run_uid: str) -> Iterator[str]:
    before = {"engine": known.engine and known.engine.model_dump(), "run_uid": known.run_uid}
    yield from differences(before, {"engine": named.model_dump(), "run_uid": run_uid})


def _named(store: Store, state: State) -> Access:
    return Access.of(engine_config(parse_json(configuration(store, state), state.place.config)["engine"]))


def _differing(store: Store, state: State, sha: str, known: Trust) -> Iterator[str]:
    """What a configuration says otherwise than the newest trusted one that is there; without one, its commands."""
    after = parse_json(_read(store, state, sha), sha)
    for trusted in reversed(known.configurations):
        with contextlib.suppress(StateError):
            yield from differences(parse_json(_read(store, state, trusted), trusted), after)
            return
    for stage in STAGES:
        commands = {name: after[stage].get(name) for name in ("app", "command", "setup", "hpc")}
        yield f"{stage}: {json.dumps({name: value for name, value in commands.items() if value})}"


def _read(store: Store, state: State, sha: str) -> bytes:
    return configuration(store, state.model_copy(update={"config_sha256": sha}))


def _refusal(url: str, what: str, lines: Iterable[str]) -> NotTrusted:
    return NotTrusted("\n".join([f"{url}: {what}", *lines, f"if you know why: `dpgen2-sm trust {url}`"]))
