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
from conventions.names import sha256
from conventions.state import State
from statemachine.store import Store, local_folder

from .access import POLICY, Access, by_environment, policy
from .configuration import configuration, differences

log = logging.getLogger("dpgen2-sm")


@dataclass(frozen=True)
class Trust:
    """What this user has said of the run at a prefix, the newest last; nothing where `engines` is empty.

    `run_uids` name the run: with another one's, workflows of that one would be stopped. `configurations` are SHA-256.
    """

    path: Path
    engines: tuple[Access, ...] = ()
    run_uids: tuple[str, ...] = ()
    configurations: tuple[str, ...] = ()

    def add(self, engine: Access, run_uid: str, configurations: Iterable[str]) -> bool:
        """Remember what is new. False where it cannot be written; that is said, too."""
        lines: list[dict[str, Any]] = []
        if engine not in self.engines or run_uid not in self.run_uids:
            lines.append({"engine": engine.model_dump(), "run_uid": run_uid})
        lines += [{"configuration": sha} for sha in configurations if sha not in self.configurations]
        try:
            if lines:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with open(self.path, "a") as stream:
                    stream.write("".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            log.warning("%s cannot be written (%s): what you trust is not remembered", self.path, error.strerror)
            return False
        return True


def trust_of(url: str) -> Trust:
    """What this user has said of the run at a prefix. Of a bucket the path counts, not the address of its server."""
    folder = local_folder(url)
    name = str(folder.resolve()) if folder else url.partition("?")[0].rstrip("/")
    path = _home() / "dpgen2-sm" / "trust" / f"{sha256(name.encode())[:32]}.jsonl"
    engines, run_uids, configurations = [], [], []
    try:
        for line in path.read_text("utf-8").splitlines():
            found = json.loads(line)
            if "engine" in found:
                engines.append(Access.model_validate(found["engine"]))
                run_uids.append(str(found["run_uid"]))
            else:
                configurations.append(str(found["configuration"]))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except PermissionError:
        raise ConfigError(f"{path}: you may not read it; set XDG_CONFIG_HOME to a folder of your own") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be used ({error}); delete it, then `dpgen2-sm trust {url}`") from None
    return Trust(path, tuple(engines), tuple(run_uids), tuple(configurations))


def _home() -> Path:
    """The user's folder for configurations; a relative one does not count, as the XDG specification says."""
    named = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        return named if named.is_absolute() else Path.home() / ".config"
    except RuntimeError:
        raise ConfigError("there is no home folder: set HOME, or XDG_CONFIG_HOME") from None


def remember(url: str, engine: EngineConfig, state: State, configuration: str, begun: bool = False) -> None:
    """A person's own configuration file is his word; of a run that is not `begun` just now, for that run.

    Where this user has said nothing yet, its current configuration is used for the first time now.

    Raises
    ------
    NotTrusted
        When the state is that of another run than this user knows there.
    """
    known = trust_of(url)
    if known.run_uids and state.run_uid not in known.run_uids and not begun:
        raise _refusal(url, "there is another run than the one that you trust:", _changes(known, None, state.run_uid))
    current = [] if known.engines else [state.config_sha256]
    known.add(Access.of(engine), state.run_uid, dict.fromkeys([*current, configuration]))


def inherit(url: str, state: State, before: str, after: str, forked: tuple[str, str] | None = None) -> None:
    """A configuration that a command made of another one is trusted as far as that one is.

    Parameters
    ----------
    forked
        Of a fork: the prefix of the first run, and the uid of the new one.
    """
    begun, run_uid = forked or (url, state.run_uid)
    known = trust_of(begun)
    if state.run_uid in known.run_uids and before in known.configurations:
        trust_of(url).add(known.engines[-1], run_uid, [after])


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
    if not known.engines:
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
    if not known.engines and first_use:
        log.warning("%s: used here for the first time; from now on a change of its commands is refused", url)
        if known.add(Access(type="local"), state.run_uid, [sha]) or local_folder(url):
            return  # who writes to a folder can write to the engine's files there as well
        raise NotTrusted(f"{url}: set XDG_CONFIG_HOME to a folder where it can be remembered that you trust this run")
    what = "its configuration is none that you trust" if known.engines else "you have neither begun nor used this run"
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


def _changes(known: Trust, named: Access | None, run_uid: str) -> Iterator[str]:
    if named is not None and named not in known.engines:
        yield from differences(known.engines[-1].model_dump() if known.engines else None, named.model_dump(), "engine")
    if run_uid not in known.run_uids:
        yield from differences(known.run_uids[-1] if known.run_uids else None, run_uid, "run_uid")


def _named(store: Store, state: State) -> Access:
    return Access.of(engine_config(parse_json(configuration(store, state), state.place.config)["engine"]))


def _differing(store: Store, state: State, sha: str, known: Trust) -> Iterator[str]:
    """What a configuration says otherwise than the newest trusted one that is there; without one, all of it."""
    after = parse_json(_read(store, state, sha), sha)
    for trusted in reversed(known.configurations):
        with contextlib.suppress(StateError):
            yield from differences(parse_json(_read(store, state, trusted), trusted), after)
            return
    yield from differences({}, after)


def _read(store: Store, state: State, sha: str) -> bytes:
    return configuration(store, state.model_copy(update={"config_sha256": sha}))


def _refusal(url: str, what: str, lines: Iterable[str]) -> NotTrusted:
    return NotTrusted("\n".join([f"{url}: {what}", *lines, f"if you know why: `dpgen2-sm trust {url}`"]))
