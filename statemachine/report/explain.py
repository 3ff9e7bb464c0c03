"""Why a frame was chosen and what became of it; what a job did; what an iteration came to. Answers as (what, text)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from conventions.documents import DoneMarker, parse_json
from conventions.errors import CommandRefused, ConfigError, DataError, NotFound
from conventions.names import STAGES, derive_seed, format_id
from conventions.state import State
from operators.select.checks import LEVELS
from statemachine.machine.outlook import CLASSES, needed, shares, why_not_converged
from statemachine.run.configuration import configuration
from statemachine.store import Store

from .causes import causes
from .chosen import Chosen, read_chosen
from .figures import Figures
from .iteration import Iteration, Scored

Answer = Iterator[tuple[str, str]]
_FRAME, _JOB = re.compile(r"([0-9]+)/([0-9]+)"), re.compile(rf"({'|'.join(STAGES)})/([0-9]+)/([0-9]{{1,6}})")
FORMS = "give an iteration (3), a chosen frame (2/14: the 15th that iteration 2 chose) or a job (label/3/12)"
TRAJECTORIES = "trajectories.json"


def explain(store: Store, figures: Figures, what: str) -> Answer:
    """Explain one thing.

    Raises
    ------
    ConfigError
        When it is none of the three forms.
    CommandRefused
        When the run has no such iteration, frame or job.
    """
    if found := _FRAME.fullmatch(what):
        return explain_frame(store, figures, _iteration(figures, int(found[1])), int(found[2]))
    if found := _JOB.fullmatch(what):
        return explain_job(store, figures, found[1], _iteration(figures, int(found[2])), int(found[3]))
    if what.isascii() and what.isdecimal():
        return explain_iteration(figures, _iteration(figures, int(what)))
    raise ConfigError(f"{what[:60]!r} is nothing that can be explained; {FORMS}")


def _iteration(figures: Figures, number: int) -> Iteration:
    for one in figures.iterations:
        if one.row.iteration == number:
            return one
    last = figures.iterations[-1].row.iteration if figures.iterations else None
    raise CommandRefused(
        f"the run has no iteration {number}; {f'its last is {last}' if last is not None else 'no stage is done yet'}"
    )


def explain_iteration(figures: Figures, one: Iteration) -> Answer:
    """What an iteration did, why stages of it were repeated, and what the rule of convergence made of it."""
    state, row = figures.state, one.row
    yield "iteration", f"{row.iteration}, exploration stage {row.explore_stage}{', dropped by a rewind' * row.left}"
    if row.final:
        yield "final", f"it labels what was chosen last and trains on it: the run ends as {row.final}"
    for stage in STAGES:
        yield from ((stage, text) for text in _stage(figures, one, stage))
    if found := shares(row.figures):
        told = ", ".join(f"{found[name]:.1%} {name}" for name in CLASSES)
        yield "explored", f"{told}; {state.policy.convergence.accuracy:.0%} accurate are asked for"
        if why := why_not_converged([row], state.policy.convergence.accuracy):
            yield "rule", why
        chosen = one.stages["select"].classes if "select" in one.stages else {}
        yield from (("cause", text) for text in causes(one.explored, chosen))
    for structure, figure in ((at, f) for number, at, f in figures.calibrations() if number == row.iteration):
        what = f"{figure.labels} accurate frames" if figure.check else f"{figure.labels} labels"
        text = f"{structure}: the errors of {what} were {figure.ratio[1]:.3g} times the deviation "
        text += f"(median; {figure.ratio[0]:.3g} to {figure.ratio[2]:.3g})"
        if figure.check and figure.below is not None:
            text += f"; {1 - figure.below:.1%} of them were above f_trust_lo"
        yield "check" if figure.check else "blind spot", text
    if row.iteration == state.iteration:
        yield "state", f"{state.at}{': ' * bool(state.reason)}{state.reason}"
        yield from (("needed", text) for text in needed(state))


def _stage(figures: Figures, one: Iteration, stage: str) -> Iterator[str]:
    for span in figures.spans:
        if (span.iteration, span.stage) == (one.row.iteration, stage) and span.why:
            yield f"attempt {span.attempt} was given up: {span.why}"
    if outcome := one.stages.get(stage):
        classes = ", ".join(f"{number} {kind}" for kind, number in outcome.classes.items() if number)
        yield f"{classes or 'done'} ({outcome.planned} jobs, attempt {outcome.attempts - 1})"
        yield from outcome.messages


def explain_frame(store: Store, figures: Figures, one: Iteration, number: int) -> Answer:
    """Why a frame was chosen, and what became of it."""
    space, row = figures.state.place.space, one.row
    product = space.stage("select", row.iteration).product
    try:
        frames = read_chosen(store, product)
    except NotFound:
        raise CommandRefused(
            f"{store.at(product)} is missing: the iteration chose nothing yet, or was adopted"
        ) from None
    if number >= len(frames):
        raise CommandRefused(f"iteration {row.iteration} chose {len(frames)} frames, numbered from 0")
    fact = frames[number]
    yield (
        "frame",
        f"{row.iteration}/{number}, of structure set {fact.structure}, explore job {fact.job_id} {fact.task_id}, "
        f"step {fact.step}",
    )
    if conditions := _conditions(store, figures, one, fact):
        yield "explored", conditions
    yield from _why_chosen(store, figures, one, fact, number, len(frames))
    labelled = _label_of(figures, one, fact, number)
    if labelled is None:
        later = [each for each in figures.iterations if each.row.iteration > row.iteration]
        if fact.check and any({"label", "select"} & set(each.row.stages) for each in later):
            yield "label", "it was not labelled: frames of check_fraction alone are no reason for new labels"
            return
        yield "label", "it has not been labelled yet" if not row.left else "it was not labelled before the rewind"
        return
    after, label = labelled
    yield from _what_became(figures, after, label)


def _conditions(store: Store, figures: Figures, one: Iteration, fact: Chosen) -> str:
    """What its trajectory was run under; empty where the list of trajectories does not tell."""
    key = f"{figures.state.place.space.stage('explore', one.row.iteration).product}/{TRAJECTORIES}"
    try:
        listed = parse_json(store.get(key).data, store.at(key))["trajectories"]
        (found,) = [each for each in listed if (each["job_id"], each["task_id"]) == (fact.job_id, fact.task_id)]
        shown = {name: value for name, value in found.items() if name in ("temp", "press") or name.startswith("V_")}
        units = {"temp": " K", "press": " bar"}
        told = [f"{name} {value}{units.get(name, '')}" for name, value in shown.items() if value is not None]
        return ", ".join([f"from structure {found['index']} of the set", *told, f"the trajectory is {found['class']}"])
    except (NotFound, DataError, KeyError, TypeError, ValueError, AttributeError):
        return ""


def _why_chosen(store: Store, figures: Figures, one: Iteration, fact: Chosen, number: int, chosen: int) -> Answer:
    levels = one.explored.levels.get(fact.structure, {}) if one.explored else {}
    told = ", ".join(f"{name} {levels[name]:.4g}" for name in LEVELS if name in levels)
    virial = "" if fact.max_devi_v is None else f", max_devi_v {fact.max_devi_v:.4g}"
    deviations = f"max_devi_f {fact.max_devi_f:.4g}{virial}"
    if fact.check:
        yield "accurate", f"{deviations}: below the lower trust levels ({told or 'not recorded'})"
    else:
        yield "candidate", f"{deviations}: between the trust levels ({told or 'not recorded'})"
    classes = one.stages["select"].classes if "select" in one.stages else {}
    rest = {
        kind: classes[kind]
        for kind in classes
        if kind not in (*CLASSES, "selected", "check", "skipped", "invalid", "lost")
    }
    rejected = ", ".join(f"{count} {kind}" for kind, count in rest.items() if count) or "none"
    yield "filters", f"it passed all; rejected among the others that were looked at: {rejected}"
    if fact.check:
        drawn = (
            f"drawn at random from {classes.get('accurate', 'the')} accurate frames: its error is that of such frames"
        )
        yield "chosen", f"number {number + 1} of {chosen}, {drawn}"
        return
    seed = _seed(store, figures.state, one)
    candidates = chosen - classes.get("check", 0)
    drawn = (
        f"number {number + 1} of {candidates} that were drawn at random from {classes.get('candidate', 'the')} "
        "candidates"
    )
    yield "chosen", f"{drawn}{f' (seed {seed})' if seed is not None else ''}"


def _seed(store: Store, state: State, one: Iteration) -> int | None:
    try:
        found = parse_json(configuration(store, state), state.place.config)
        return derive_seed(found["seed"], "select", one.row.iteration)
    except (DataError, KeyError, TypeError):
        return None


def _label_of(figures: Figures, one: Iteration, fact: Chosen, number: int) -> tuple[Iteration, Scored] | None:
    """The label of a chosen frame: the first iteration after it whose list has the same frame at the same place."""
    for after in figures.iterations:
        if after.row.iteration <= one.row.iteration or number >= len(after.labels):
            continue
        label = after.labels[number]
        alike = label.max_devi_f is None or abs(label.max_devi_f - fact.max_devi_f) <= 1e-5 * fact.max_devi_f
        if label.structure == fact.structure and alike:
            return after, label
    return None


def _what_became(figures: Figures, after: Iteration, label: Scored) -> Answer:
    where = f"iteration {after.row.iteration}, label job {label.job_id} {label.task_id}"
    if label.kind != "ok":
        yield "label", f"none: {label.kind}: {label.message} ({where})"
        return
    place = figures.state.place.space.dataset_iter(after.row.iteration)
    yield "label", f"{where}; it is frame {label.index} of {place}/{label.system}"
    if label.max_force is not None:
        yield "forces", f"the largest is {label.max_force:.4g} eV/A"
    if label.max_error_f is not None:
        ratio = f", {label.max_error_f / label.max_devi_f:.3g} times the deviation" if label.max_devi_f else ""
        yield "error then", f"the model that explored was wrong by up to {label.max_error_f:.4g} eV/A{ratio}"
    if label.new_error_f is not None:
        yield "error after", f"the committee that was trained on it: up to {label.new_error_f:.4g} eV/A"
    trained = [
        str(each.row.iteration)
        for each in figures.iterations
        if each.row.iteration >= after.row.iteration and "train" in each.row.stages and not each.row.left
    ]
    kept = trained and not after.row.left
    yield "trained", f"in the committees of iterations {', '.join(trained)}" if kept else "no committee that counts"


def explain_job(store: Store, figures: Figures, stage: str, one: Iteration, number: int) -> Answer:
    """What a job of a stage did."""
    job = figures.state.place.space.stage(stage, one.row.iteration).job(format_id(number))
    yield "job", store.at(job.job_in)
    try:
        marker = DoneMarker.load(store.get(job.job_done).data, store.at(job.job_done))
    except NotFound:
        if store.head(job.job_digest) is None:
            raise CommandRefused(f"{stage} of iteration {one.row.iteration} has no job {number}") from None
        yield "marker", "none: it has not finished, or was killed; the next attempt runs it again"
    else:
        good = sum(task.code == 0 for task in marker.tasks)
        size = sum(file.size for file in marker.files)
        yield "marker", f"{good} of {len(marker.tasks)} tasks ended well; {len(marker.files)} files, {size:,} bytes"
        yield from (("task", f"{task.id}: exit code {task.code}") for task in marker.tasks if task.code)
    if stage == "label":
        for label in one.labels:
            if label.job_id == job.job_id:
                error = f", wrong by {label.max_error_f:.3g} eV/A before" if label.max_error_f is not None else ""
                yield "frame", f"{label.task_id}: {label.kind}{': ' * bool(label.message)}{label.message}{error}"
    yield "logs", f"dpgen2-sm logs RUN --stage {stage} --iter {one.row.iteration} --job {number}"
