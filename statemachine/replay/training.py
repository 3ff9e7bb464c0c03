"""Models trained on a part of a run's labels: a campaign of one train stage, in a folder of ours, on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conventions.errors import DataError
from conventions.state import State
from operators.registry import config_model
from statemachine.machine.orders import Order
from statemachine.run.begin import begin
from statemachine.run.labelled import Source, read, test_data, training_data
from statemachine.run.opening import open_poller
from statemachine.run.trial import remove
from statemachine.store import Store

from .labels import Label

INTERVAL = 0.5  # seconds between two looks
SUBSET = "subset"


class Training:
    """Trains committees as the run does, with its settings and its seed.

    Parameters
    ----------
    config
        The newest configuration of the run.
    selected
        Iterations whose labels are of selected frames. The labels of others are initial data, which all models see.
    scratch
        A folder that the campaigns are put into, and that is deleted by the caller.
    """

    def __init__(self, store: Store, state: State, config: Any, selected: set[int], scratch: Path) -> None:
        self.store, self.config, self.scratch = store, config, scratch
        self.sources = training_data(store, state)
        self.tests = test_data(store, state, config.init.test)
        if not self.tests:
            raise DataError("--retrain: the run has no init.test, so there is nothing to measure on; add test data")
        self.base = scratch / "data"
        files = store.fetch(state.place.space.files, scratch / "files")
        self.base.mkdir()
        for path in files.iterdir() if files else ():
            (self.base / path.name).symlink_to(path.absolute())
        self.initial = [source for source in self.sources if source.iteration not in selected]
        for source in (*self.tests, *self.initial):
            self._write(source, self._folder(source), None)

    def errors(self, name: str, labels: Sequence[Label]) -> dict[str, float]:
        """rmse_e (eV/atom) and rmse_f (eV/Angstrom) on the test data of a committee that saw these labels only.

        Beside them it sees the initial data. Raises `DataError` where the training fails.
        """
        subset = self.base / SUBSET / name
        kept: defaultdict[int, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for label in labels:
            kept[label.iteration][label.system].append(label.index)
        for source in self.sources:
            if source.iteration is not None and source.iteration in kept:
                self._write(source, subset / source.name, kept[source.iteration])
        document = self._document(name, bool(labels))
        begin(document, self.base)
        poller = open_poller(document.prefix)
        try:
            state = poller.step()
            poller.tell(Order("pause", "only the models are wanted"))
            while not state.ended and state.stage == "train":
                poller.engine.wait(state.workflow, INTERVAL)
                state = poller.step()
            row = state.trail[-1] if state.trail else None
            if row is None or "train" not in row.stages:
                raise DataError(f"--retrain: training for {name} failed: {state.reason}")
            return {key: row.figures[key] for key in ("rmse_e", "rmse_f") if key in row.figures}
        finally:
            remove(poller)

    def _write(self, source: Source, folder: Path, kept: dict[str, list[int]] | None) -> None:
        for system in read(self.store, source):
            wanted = None if kept is None else sorted(kept.get(system.name, []))
            if wanted != []:
                data = system.data if wanted is None else system.data.sub_system(wanted)
                data.to("deepmd/npy", str(folder / system.name))

    def _folder(self, source: Source) -> Path:
        return self.base / source.part / source.name

    def _document(self, name: str, some: bool) -> Any:
        document = self.config.model_dump(mode="json")
        document["run"], document["prefix"] = "replay", f"file://{self.scratch / 'runs' / name}"
        document["engine"] = {"type": "local"}
        data = {f"{source.part}-{source.name}": {"path": str(self._folder(source))} for source in self.initial}
        if some:
            data[SUBSET] = {"path": str(self.base / SUBSET / name)}
        tests = {source.name: {"path": str(self._folder(source))} for source in self.tests}
        document["init"] = {"label": [], "data": data, "test": tests}
        return config_model(document).from_json(document, "the configuration of --retrain")
