"""From a state to the workflow of its current attempt. Everything here may be repeated after a crash."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from conventions.errors import Conflict
from conventions.names import sha256
from conventions.state import State, Systems
from statemachine.store import Store

from .calibration import calibration
from .configuration import configuration
from .systems import argument_of, training_systems

if TYPE_CHECKING:
    from conventions.cluster import ArgoConfig
    from conventions.config import StageConfig
    from operators.pod.s3 import Place
    from operators.workflow import StageWorkflow


@dataclass(frozen=True)
class Prepared:
    """A workflow whose code is in the store; for a train stage also which systems it is given."""

    manifest: dict[str, Any]
    systems: Systems | None


class Submission:
    """Prepares workflows: freezes the iteration's configuration, ships code, builds the manifest.

    What that takes is imported when it is done: a step that only looks does not pay for it.

    Parameters
    ----------
    trusted
        Called with a state before its configuration is used; raises `NotTrusted`.
    """

    def __init__(self, store: Store, trusted: Callable[[State], None] = lambda state: None) -> None:
        self.store, self.trusted = store, trusted
        self._shipped: set[str] = set()

    def prepare(self, state: State) -> Prepared:
        """Build the workflow of the current attempt and put the code it needs into the store."""
        from operators.pod.s3 import Place
        from operators.registry import app
        from operators.workflow import build

        self.trusted(state)
        config = self.config(state)
        stage, engine = config.stages[state.stage], config.engine
        facts = self.facts(state)
        what = (state.workflow, app(state.stage, stage.app), state.place, facts)
        if engine.type == "argo":
            workflow = argo_workflow(what, engine, stage, Place.parse(self.store.url))
        else:
            workflow = build(*what, prefix=self.store.url, image="local", routes=stage.routes)
        for key, data in workflow.objects.items():
            if key not in self._shipped or state.attempt:
                self._upload(key, data, read=state.attempt > 0)
        given = Systems(iteration=state.iteration, sha256=sha256(argument_of(facts["systems"])))
        return Prepared(workflow.manifest, given if state.stage == "train" else None)

    def config(self, state: State) -> Any:
        """The configuration of the current attempt; the iteration's first one is also kept by number."""
        place = state.place
        data = configuration(self.store, state)
        if place.config not in self._shipped:
            self._upload(place.config, data)
        frozen = place.space.config(state.iteration)
        if frozen not in self._shipped:
            with contextlib.suppress(Conflict):
                self.store.put(frozen, data, if_absent=True)
            self._shipped.add(frozen)
        return _parse(data, place.config)

    def facts(self, state: State) -> dict[str, Any]:
        """Values for the operators' parameters."""
        return {
            "iteration": state.iteration,
            "attempt": state.attempt,
            "last": state.stalled >= state.policy.retries[state.stage],
            "finished": state.finished,
            "has_models": "train" in state.newest,
            "has_selected": "select" in state.newest,
            "explore_stage": state.explore_stage,
            "systems": training_systems(self.store, state) if state.stage in ("train", "select") else [],
            "calibration": self._calibration(state) if state.stage == "select" else {},
        }

    def _calibration(self, state: State) -> dict[str, float]:
        settings = _parse(configuration(self.store, state), state.place.config).select
        return calibration(self.store, state) if getattr(settings, "auto_trust_lo", None) else {}

    def _upload(self, key: str, data: bytes, read: bool = False) -> None:
        """Content-addressed: what is there is right, unless it was cut short or, where an attempt failed, damaged."""
        there = self.store.head(key)
        if there is None or there.size != len(data) or (read and self.store.get(key).data != data):
            self.store.put(key, data)
        self._shipped.add(key)


def argo_workflow(what: tuple[Any, ...], engine: ArgoConfig, stage: StageConfig, store: Place) -> StageWorkflow:
    """The workflow as Argo gets it: with the pods' resources, and the store's address as pods see it."""
    from operators.workflow import build
    from operators.workflow.pods import dress

    workflow = build(
        *what,
        prefix=replace(store, endpoint=engine.repository.endpoint or store.endpoint).url,
        key_prefix=f"{store.path}/",
        image=engine.image,
        job_image=stage.image,
        routes=stage.routes,
        parallelism=engine.parallelism,
    )
    dress(workflow.manifest, engine, stage, store)
    return workflow


@functools.lru_cache(maxsize=4)
def _parse(data: bytes, key: str) -> Any:
    from operators.registry import load_config

    return load_config(data, key)
