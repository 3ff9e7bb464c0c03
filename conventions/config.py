"""The run configuration, as a user writes it.

The four stages are `StageConfig`s here; each software extends it in `operators/{stage}/{app}.py`, and
`operators.registry` puts the whole model together.
"""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, RootModel, Tag, model_validator

from .cluster import EngineConfig, Image, LocalConfig, Pod
from .cluster import Text as Text  # third-party apps import it from here
from .documents import Document, Strict
from .errors import did_you_mean
from .forms import form, form_error
from .hpc import Hpc
from .names import GPU_STAGES, RUN_NAME
from .state import Convergence, Policy

# fmt: off
ELEMENTS = frozenset("""
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb
Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au
Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
""".split())
# fmt: on


def _element(symbol: str) -> str:
    if symbol not in ELEMENTS:
        near = did_you_mean(symbol.capitalize(), ELEMENTS)
        raise ValueError(f"{symbol!r} is not an element" + (f"; {near}" if near.startswith("did") else ""))
    return symbol


def _run_name(text: str) -> str:
    if not re.fullmatch(RUN_NAME, text, re.ASCII):
        near = re.sub(r"[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")[:20].rstrip("-")
        raise ValueError(form_error(text, RUN_NAME) + (f"; write {near}" if near else ""))
    return text


def _prefix(text: str) -> str:
    if not text or text != text.strip() or not text.isprintable():
        raise ValueError(f"{text!r} is empty, has spaces around it, or has characters that cannot be printed")
    if "$" in text:
        raise ValueError(f"{text!r}: environment variables are not expanded here; write the full path")
    return text


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Element = Annotated[str, AfterValidator(_element)]
_NAME = form(
    r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$",
    "1-64 letters, digits, '.', '_', '-', not beginning with '.' or '-': bulk_300K",
)
Name = Annotated[str, Field(pattern=_NAME)]
RunName = Annotated[str, AfterValidator(_run_name), Field(json_schema_extra={"pattern": RUN_NAME})]


class UserFile(RootModel[str]):
    """A user's file; the path is relative to the configuration file.

    `init` copies it into the store and writes `{sha256}/{name}` here.
    """

    model_config = {"strict": True, "frozen": True}

    @property
    def name(self) -> str:
        """What it is called in a task's folder."""
        return self.root.rpartition("/")[2]

    @property
    def keeps_name(self) -> bool:
        """Has it a name that a store and a shell know too? A pattern stands for such names."""
        return bool(re.fullmatch(r"[A-Za-z0-9*?\[][A-Za-z0-9._*?!\[\]-]*", self.name))

    @property
    def stored(self) -> bool:
        return bool(re.match(r"[0-9a-f]{64}/", self.root))


class Slab(Strict):
    """A surface, cut out of a crystal."""

    miller: list[Annotated[int, Field(ge=-20, le=20)]] = Field(
        min_length=3, max_length=3, description="Miller indices, of the cell that the file has."
    )
    layers: int = Field(ge=1, le=1000, description="Layers; each has as many atoms as the file's cell.")
    vacuum: float = Field(ge=0, le=1000, description="Empty space on each side, Angstrom.")

    @model_validator(mode="after")
    def _plane(self) -> Slab:
        if not any(self.miller):
            raise ValueError("miller: [0, 0, 0] is no plane; give its indices, such as [1, 1, 1]")
        return self


class Pack(Strict):
    """Cubic boxes, filled at random with the molecules (or single atoms) that the files have."""

    molecules: list[Annotated[int, Field(ge=0, le=10**5)]] = Field(
        min_length=1, description="How many of each structure of the files, in their order."
    )
    density: float = Field(gt=0, le=50, description="g/cm3: how large the box is.")
    tolerance: float = Field(1.8, ge=0.4, le=10, description="Least distance between atoms of two molecules, Angstrom.")
    boxes: int = Field(1, ge=1, le=10**5, description="How many different ones.")

    @model_validator(mode="after")
    def _some(self) -> Pack:
        if not any(self.molecules):
            raise ValueError("molecules: all are 0; give at least one a number")
        return self


Fraction = Annotated[float, Field(ge=0, le=1)]


class Structures(Strict):
    """A named set of structures: files that ASE or dpdata reads, then multiplied, scaled and perturbed.

    Of each copy elements and vacancies may be drawn at random: with pert_numb several different ones.
    """

    files: Annotated[list[UserFile], BeforeValidator(_as_list)] = Field(
        min_length=1, description="Files (deepmd/npy: folders) or glob patterns; every frame is used."
    )
    format: str | None = Field(
        None,
        description="Name of the format, of ASE or dpdata (deepmd/npy, abacus/stru), where the file does not show it.",
    )
    vacuum: float = Field(
        10.0,
        ge=1,
        le=100,
        description="Angstrom on each side where a file has no cell vector: around a molecule, beside a slab.",
    )
    super_cell: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        [1, 1, 1], min_length=3, max_length=3, description="Repetitions of the cell along its three vectors."
    )
    slab: Slab | None = Field(None, description="Cut this surface first.")
    pack: Pack | None = Field(None, description="Fill boxes with the files' molecules; instead of slab and super_cell.")
    scale: list[Annotated[float, Field(gt=0, lt=10)]] = Field([1.0], min_length=1, description="Factors on the cell.")
    substitute: dict[Element, Annotated[dict[Element, Fraction], Field(min_length=1)]] = Field(
        {}, description="Elements that take the places of another one at random: {Cu: {Cu: 0.5, Au: 0.5}}."
    )
    vacancies: int = Field(0, ge=0, le=10**5, description="Atoms that are taken out at random.")
    pert_numb: int = Field(0, ge=0, le=10**5, description="Perturbed copies of each cell; 0 keeps the cell as it is.")
    pert_box: float = Field(0.0, ge=0, lt=1, description="Largest relative strain of a perturbed cell.")
    pert_atom: float = Field(0.0, ge=0, lt=10, description="Largest displacement of an atom along each axis, Angstrom.")

    @model_validator(mode="after")
    def _either(self) -> Structures:
        if self.pack and (self.slab or self.super_cell != [1, 1, 1] or self.scale != [1.0]):
            raise ValueError("pack makes the box: remove slab, super_cell and scale (density says how large it is)")
        return self

    @model_validator(mode="after")
    def _fractions(self) -> Structures:
        for element, fractions in self.substitute.items():
            if abs(sum(fractions.values()) - 1) > 1e-6:
                raise ValueError(
                    f"substitute.{element}: the fractions are {sum(fractions.values()):g} together; make them 1 "
                    f"(what stays is {element} itself)"
                )
        return self


class LabelledData(Strict):
    """Labelled data in a format that dpdata reads."""

    path: str = Field(description="A file, a folder or a glob pattern, relative to the configuration file.")
    format: str = Field("deepmd/npy", description="dpdata's name of the format.")
    every: int = Field(
        1, ge=1, le=10**9, description="Use the first frame of each file (or DeePMD system), and then every so many-th."
    )
    unique: bool = Field(
        False, description="Leave out frames that have the structure of an earlier frame of these data."
    )


class Init(Strict):
    """What a run starts from."""

    label: list[Name] = Field([], description="Structure sets that are labelled in iteration 0.")
    data: dict[Name, LabelledData] = Field({}, description="Labelled data to train on from the beginning.")
    test: dict[Name, LabelledData] = Field({}, description="Independent test data, for the RMSE; never trained on.")


# How jobs are run: none of these keys is part of the jobs' inputs.
HOW = ("command", "setup", "shell", "retries", "ratio_failed", "image", "pod", "hpc")


def _whole(command: str) -> str:
    """A command whose quotes are all closed: an open one would take the rest of the script."""
    try:
        shlex.split(command)
    except ValueError as error:
        raise ValueError(f"{command!r} is no command: {error}") from None
    return command


# One machine, or a list of them; each form has errors of its own.
Routes = Annotated[
    Annotated[Hpc, Tag("one")] | Annotated[list[Hpc], Field(min_length=1), Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
]


class StageConfig(Strict):
    """What all stages have in common."""

    app: str
    command: Annotated[Text, AfterValidator(_whole)] | None = Field(
        None, description="Command that starts the software; each app has its default."
    )
    setup: list[Text] = Field(
        [], description="Shell lines before the command: `export ...`, `. FILE`. One that fails ends the task."
    )
    shell: Literal["sh", "bash"] = Field("sh", description="What runs setup and command; `source`, `module`: bash.")
    group_size: int = Field(1, ge=1, le=10**6, description="Tasks in one job.")
    retries: int = Field(
        3, ge=0, le=10**6, description="How many new attempts in a row may finish no further job before the run fails."
    )
    ratio_failed: float = Field(0.0, ge=0, le=1, description="Fraction of tasks that may fail.")
    image: Image | None = Field(None, description="Container image of the jobs; default: the engine's.")
    pod: Pod = Field(Pod(), description="What the jobs' pods ask of Kubernetes.")
    hpc: Routes | None = Field(
        None,
        description="Hand the jobs to a batch system (Slurm, PBS, ...) and wait for them; a list: to one of several.",
    )

    @property
    def routes(self) -> list[Hpc]:
        """The batch systems that jobs may go to. Where there are none, jobs run where the engine starts them."""
        return self.hpc if isinstance(self.hpc, list) else [self.hpc] if self.hpc else []


class RunConfig(Document):
    """Configuration of a run. Keys that begin with `_` are comments."""

    run: RunName = Field(description="Short name: 1-20 lower-case letters, digits and '-'.")
    prefix: Annotated[Text, AfterValidator(_prefix)] = Field(
        description="Where everything is kept: s3://bucket/path, file:///path, or a path relative to this file."
    )
    engine: EngineConfig = Field(LocalConfig(), description="Where jobs run: this machine, or an Argo server.")
    seed: int = Field(1, ge=0, lt=2**31, description="All random numbers derive from it.")
    type_map: list[Element] = Field(min_length=1, description="Elements, in the order of the models' types.")
    mass_map: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, description="Masses in g/mol; default: standard."
    )
    structures: dict[Name, Structures] = Field({}, description="Structure sets, by name.")
    init: Init = Field(Init(), description="What the run starts from: `label` or `data` is required.")
    label: StageConfig
    train: StageConfig
    explore: StageConfig
    select: StageConfig
    max_iterations: int = Field(10, ge=1, lt=10**6, description="The run ends after so many iterations.")
    convergence: Convergence = Field(Convergence(), description="When exploration has converged.")

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if len(set(self.type_map)) != len(self.type_map):
            raise ValueError("type_map: an element appears twice")
        if self.mass_map is not None and len(self.mass_map) != len(self.type_map):
            raise ValueError(f"mass_map: {len(self.mass_map)} masses for {len(self.type_map)} elements of type_map")
        for name, structures in self.structures.items():
            for element in (one for fractions in structures.substitute.values() for one in fractions):
                if element not in self.type_map:
                    raise ValueError(f"structures.{name}.substitute: element {element} is not in type_map; add it")
        for name in self.init.label:
            if name not in self.structures:
                near = did_you_mean(name, self.structures)
                raise ValueError(f"init.label: there is no structure set {name!r} in structures; {near}")
        if self.engine.type == "argo" and not self.prefix.startswith("s3://"):
            raise ValueError("prefix: engine.type argo needs s3://bucket/path, which pods can reach")
        if not self.init.label and not self.init.data:
            raise ValueError("init: give structures to label (init.label) or labelled data (init.data)")
        return self

    @property
    def apps(self) -> dict[str, str]:
        return {name: stage.app for name, stage in self.stages.items()}

    @property
    def stages(self) -> dict[str, StageConfig]:
        return {"label": self.label, "train": self.train, "explore": self.explore, "select": self.select}

    def gpus(self, stage: str) -> int | None:
        """GPUs of each job of a stage; None where the configuration does not say."""
        if routes := self.stages[stage].routes:
            found = {route.resources.gpus for route in routes}
            return found.pop() if len(found) == 1 else None
        if isinstance(self.engine, LocalConfig):
            return int(stage in GPU_STAGES) if self.engine.gpus else None
        return self.stages[stage].pod.gpu

    def work(self) -> dict[str, Any]:
        """The keys that determine the inputs of jobs: equal for configurations that differ only in how jobs are run."""
        left_out = {"engine": True, "max_iterations": True, "convergence": True}
        return self.model_dump(mode="json", exclude={**left_out, **{stage: set(HOW) for stage in self.stages}})

    def policy(self, explore_stages: int) -> Policy:
        """The part that the machine needs."""
        return Policy(
            apps=self.apps,
            max_iterations=self.max_iterations,
            explore_stages=explore_stages,
            retries={name: stage.retries for name, stage in self.stages.items()},
            convergence=self.convergence,
        )
