"""All rules on all iterations: what each would have chosen, and what models would have learned of it."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from conventions.names import derive_seed
from operators.registry import load_config
from statemachine.run.configuration import configuration
from statemachine.run.record import Record
from statemachine.run.systems import training_systems
from statemachine.run.trust import authorise
from statemachine.store import Store

from .labels import Label, labelled, labels_of
from .rules import AS_IT_WAS, Rule
from .selection import Selected, Selection, replayable

Said = Callable[[str], None]
EVERYTHING = "all labels"


@dataclass(frozen=True)
class Outcome:
    """A rule, and what came of it.

    Attributes
    ----------
    labels
        How many of its frames the run has labelled: all that models can be trained on.
    errors, by_chance
        rmse_e (eV/atom) and rmse_f (eV/Angstrom) on the test data of models trained on these labels, and on as many
        drawn at random among all of the run; empty without --retrain.
    """

    rule: str
    selections: list[Selected]
    labels: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    by_chance: dict[str, float] = field(default_factory=dict)

    @property
    def selected(self) -> int:
        return sum(len(one.frames) for one in self.selections)


def replay(
    store: Store, rules: Sequence[Rule], retrain: bool = False, seed: int = 1, said: Said = lambda what: None
) -> list[Outcome]:
    """What the run did, then each rule; with `retrain` also what all of its labels give.

    Raises
    ------
    ConfigError
        When a rule would be refused.
    NotTrusted
        With `retrain`, when this user has not said that the run may run commands here.
    DataError
        When what the run explored is not there any more, or a training fails.
    """
    state = Record(store).load().state
    if retrain:  # by the run's own commands
        authorise(store, state, first_use=False)
    iterations = [row.iteration for row in replayable(store, state)]
    systems = training_systems(store, state)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="dpgen2-replay-") as folder:
        scratch = Path(folder)
        selection = Selection(store, state, systems, scratch)
        for rule in (Rule(AS_IT_WAS, {}), *rules):
            selections = []
            for iteration in iterations:
                said(f"{rule.name}: iteration {iteration}")
                selections.append(selection.repeat(rule, iteration))
            outcomes.append((rule.name, selections))
        known = labels_of(store, state)
        found = [(name, selections, labelled(known, selections)) for name, selections in outcomes]
        if not retrain:
            return [Outcome(name, selections, len(labels)) for name, selections, labels in found]
        from .training import Training

        everything = sorted(known.values(), key=lambda one: (one.iteration, one.system, one.index))
        config = load_config(configuration(store, state))
        training = Training(store, state, config, {one.iteration for one in everything}, scratch)

        def errors(name: str, labels: Sequence[Label]) -> dict[str, float]:
            said(f"training on {len(labels)} labels: {name}")
            return training.errors(name, labels)

        result = []
        for number, (name, selections, labels) in enumerate(found):
            chance = random.Random(derive_seed(seed, "replay", number)).sample(everything, len(labels))
            result.append(
                Outcome(
                    name, selections, len(labels), errors(f"rule-{number}", labels), errors(f"chance-{number}", chance)
                )
            )
        result.append(Outcome(EVERYTHING, [], len(everything), errors("all", everything)))
        return result


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The outcomes as plain data, for scripts."""
    return [{**asdict(outcome), "selected": outcome.selected} for outcome in outcomes]
