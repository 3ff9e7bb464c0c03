"""From a state to the workflow of its present attempt. Everything here may be repeated after a crash."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from conventions.errors import Conflict, NotFound
from conventions.space import StageSpace
from conventions.state import State
from operators.registry import app, load_config
from operators.workflow import StageWorkflow, build

from .runs import first_config
from .store import Store


class Submission:
    """Prepares workflows: freezes the iteration's configuration, ships code, builds the manifest."""

    def __init__(self, store: Store, key_prefix: str = "") -> None:
        self.store, self.key_prefix = store, key_prefix
        self._shipped: set[str] = set()

    def prepare(self, state: State) -> StageWorkflow:
        """Build the workflow of the present attempt and put the code it needs into the store."""
        config = self.config(state)
        stage = config.stages[state.stage]
        workflow = build(
            state.workflow,
            app(state.stage, stage.app),
            state.place,
            self.facts(state),
            prefix=self.store.url,
            key_prefix=self.key_prefix,
            image=stage.image or "dpgen2-sm:latest",
        )
        for key, data in workflow.objects.items():
            if key not in self._shipped:
                self._ship(key, data)
        return workflow

    def config(self, state: State) -> Any:
        """The configuration of the state's iteration, frozen when the iteration begins."""
        space, iteration = state.place.space, state.iteration
        if iteration == 0:
            return _parse(first_config(self.store, state), space.config(0))
        try:
            data = self.store.get(space.config(iteration)).data
        except NotFound:
            data = self.store.get(space.config(iteration - 1)).data
            with contextlib.suppress(Conflict):
                self.store.put(space.config(iteration), data, if_absent=True)
            data = self.store.get(space.config(iteration)).data
        return _parse(data, space.config(iteration))

    def facts(self, state: State) -> dict[str, Any]:
        """Values for the operators' parameters."""
        return {
            "iteration": state.iteration,
            "attempt": state.attempt,
            "trained": state.trained,
            "has_models": state.iteration > 0,
            "explore_stage": state.explore_stage,
            "systems": self._systems(state.place) if state.stage in ("train", "select") else [],
        }

    def _systems(self, place: StageSpace) -> list[str]:
        """Training data merge with history by listing, never by copying."""
        keys = (entry.key for entry in self.store.list(place.space.dataset + "/"))
        return sorted(system for key in keys if (system := place.space.training_system(key)))

    def _ship(self, key: str, data: bytes) -> None:
        """Content-addressed: what is there is right, unless it was cut short."""
        there = self.store.head(key)
        if there is None or there.size != len(data):
            self.store.put(key, data)
        self._shipped.add(key)


@functools.lru_cache(maxsize=4)
def _parse(data: bytes, key: str) -> Any:
    return load_config(data, key)
