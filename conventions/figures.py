"""Small documents with figures, which stages leave in their products where the data are at hand: for reports only."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, model_validator

from .documents import Document, Strict

Number = float | int | str | None


class Explored(Strict):
    """What select saw of the trajectories of one structure set under the same conditions."""

    structure: str
    conditions: dict[str, Number] = Field(description="What differs between trajectories: temp (K), press (bar), V_...")
    trajectories: int = Field(ge=0)
    broken: int = Field(ge=0, description="Trajectories that did not end as they should.")
    classes: dict[str, int] = Field(description="Frames: accurate, candidate, failed, invalid, skipped.")
    histogram: list[int] = Field(
        description="Frames by max_devi_f: below the first edge, between each two, from the last one on."
    )


class SelectFigures(Document):
    """`figures.json` in the product of select."""

    edges: list[float] = Field(description="Edges of the histograms, max_devi_f in eV/Angstrom.")
    groups: list[Explored]
    levels: dict[str, dict[str, float]] = Field(description="The trust levels that counted, by structure set.")

    @model_validator(mode="after")
    def _fits(self) -> SelectFigures:
        if len(self.edges) < 2 or self.edges[0] <= 0 or any(b <= a for a, b in pairwise(self.edges)):
            raise ValueError("edges: positive numbers that rise are expected")
        if any(len(group.histogram) != len(self.edges) + 1 or min(group.histogram) < 0 for group in self.groups):
            raise ValueError("histogram: it needs a count for each interval between the edges, and two more")
        return self


class Errors(Strict):
    """Errors of forces, a number for each frame of a system, eV/Angstrom. Means over the models of the committee."""

    atoms: int = Field(ge=1, description="Of each frame.")
    max_error_f: list[float] = Field(description="Largest error of the force on an atom.")
    rmse_f: list[float] = Field(description="Root mean square over the components.")

    @model_validator(mode="after")
    def _both(self) -> Errors:
        if len(self.max_error_f) != len(self.rmse_f):
            raise ValueError("max_error_f and rmse_f: one of each for every frame is expected")
        return self


class TrainFigures(Document):
    """`figures.json` in the product of train: each model's errors, and those on the labels that were new to them."""

    models: list[dict[str, float]] = Field(
        [],
        description="Of each model rmse_e (eV/atom) and rmse_f (eV/Angstrom) on the test set, where there is one, and "
        "train_rmse_e and train_rmse_f on the training data, where they are known.",
    )
    systems: dict[str, Errors] = Field(description="By system of the labels of this iteration: Cu32.")
