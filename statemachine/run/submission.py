"""From a state to the workflow of its current attempt. Everything here may be repeated after a crash."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from conventions.errors import Conflict
from conventions.state import State
from statemachine.store import Store

from .configuration import configuration

if TYPE_CHECKING:
    from conventions.cluster import ArgoConfig
    from conventions.config import StageConfig
    from operators.pod.s3 import Place
    from operators.workflow import StageWorkflow


class Submission:
    """Prepares workflows: freezes the iteration's configuration, ships code, builds the manifest.

    What that takes is imported when it is done: a step that only looks does not pay for it.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._shipped: set[str] = set()

    def prepare(self, state: State) -> StageWorkflow:
        """Build the workflow of the current attempt and put the code it needs into the store."""
        from operators.pod.s3 import Place
        from operators.registry import app
        from operators.workflow import build

        config = self.config(state)
        stage, engine = config.stages[state.stage], config.engine
        what = (state.workflow, app(state.stage, stage.app), state.place, self.facts(state))
        if engine.type == "argo":
            workflow = argo_workflow(what, engine, stage, Place.parse(self.store.url))
        else:
            workflow = build(*what, prefix=self.store.url, image="local", hpc=stage.hpc)
        for key, data in workflow.objects.items():
            if key not in self._shipped:
                self._upload(key, data)
        return workflow

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
            "has_models": "train" in state.newest,
            "has_selected": "select" in state.newest,
            "explore_stage": state.explore_stage,
            "systems": self._systems(state) if state.stage in ("train", "select") else [],
        }

    def _systems(self, state: State) -> list[str]:
        """Training data merge with history by listing, never by copying.

        A system that the stage's SHA256SUMS does not list comes from an unfinished attempt and is not used. Labels
        that a rewind dropped are not used either.
        """
        from operators.sums import parse

        place = state.place
        unused = [row.iteration for row in state.trail if row.left and "label" not in row.stages]
        left = {place.space.dataset_iter(iteration) for iteration in unused}
        keys = {entry.key for entry in self.store.list(place.space.dataset + "/")}
        systems = sorted(system for key in keys if (system := place.space.training_system(key)))
        sums = {folder: place.space.sums(folder) for folder in {system.rpartition("/")[0] for system in systems}}
        listed = {folder: parse(self.store.get(key).data) for folder, key in sums.items() if key in keys}

        def recorded(system: str) -> bool:
            folder, _, name = system.rpartition("/")
            if f"{place.space.dataset}/{folder}" in left:
                return False
            return folder not in listed or f"{name}/type.raw" in listed[folder]

        return [system for system in systems if recorded(system)]

    def _upload(self, key: str, data: bytes) -> None:
        """Content-addressed: what is there is right, unless it was cut short."""
        there = self.store.head(key)
        if there is None or there.size != len(data):
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
        hpc=stage.hpc,
        parallelism=engine.parallelism,
        hook=engine.hook.url if engine.hook else None,
    )
    dress(workflow.manifest, engine, stage, store)
    return workflow


@functools.lru_cache(maxsize=4)
def _parse(data: bytes, key: str) -> Any:
    from operators.registry import load_config

    return load_config(data, key)
