"""What a person may write wrongly: each is refused in one line that names the key, and nothing is written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from conventions.errors import ConfigError
from operators import registry
from statemachine.run import paths
from tests.conftest import CONFIG, Cli

STUB = "train: {app: stub}"
FILES = "{files: cu.xyz}"
LABEL = "init: {label: [start]}"


def put(old: str, new: str) -> bytes:
    assert CONFIG.count(old) == 1, old
    return CONFIG.replace(old, new).encode()


def trust(value: str) -> bytes:
    return put(
        "{app: stub, accurate_after: 1}", f"{{app: model_devi, f_trust_lo: {value}, f_trust_hi: 1.0, fp_task_max: 4}}"
    )


def ase(group: str) -> bytes:
    return put("{app: stub, tasks: 3}", f"{{app: ase, stages: [[{{structures: [start], trj_freq: 5, {group[1:]}]]}}")


def add(text: str) -> bytes:
    return (CONFIG + text).encode()


DEEP = "_d0: &d0 [x]\n" + "".join(f"_d{n}: &d{n} [{'[' * 10}*d{n - 1}{']' * 10}]\n" for n in range(1, 9))


def bomb(line: str, first: str) -> str:
    """Ten lines, each nine times as much as the one before."""
    lines = [line.format(", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 10)]
    return "".join(f"_a{n}: &a{n} {text}\n" for n, text in enumerate([first, *lines]))


# Name of the case: the file's bytes, and what the error must say.
BAD: dict[str, tuple[bytes, str]] = {
    # YAML's traps
    "python object": (add("_x: !!python/object/apply:os.system ['true']\n"), "line 12: .*constructor"),
    "alias bomb": (add(bomb("[{}]", "[x, x, x]")), r"line 17: aliases \(\*name\) stand for more than 100,000"),
    "merge bomb": (add(bomb("{{<<: [{}]}}", "{x: x}")), "aliases .* stand for more than"),
    "bomb of one long text": (add(f"_a: &a {'x' * 9000}\n_b: [{'*a, ' * 20}]\n"), "line 13: aliases .* stand for more"),
    "alias of itself": (add("_a: &a [*a]\n"), r"line 12: \*a stands for nothing: no &a has ended before it"),
    "merge of itself": (add("_a: &a {<<: *a}\n"), r"line 12: \*a stands for nothing"),
    "alias of nothing": (add("_a: *b\n"), r"line 12: \*b stands for nothing"),
    "anchor twice": (add("_a: &a 1\n_b: &a [*a]\n"), "line 13: the anchor &a is given a second time"),
    "merge of a text": (put(STUB, "_d: &d stub\ntrain: {<<: *d}"), "expected a mapping .* for merging"),
    "deep by aliases": (add(DEEP), "nested too deeply"),
    "duplicate key": (add("run: other\n"), 'line 12: .*"run"'),
    "nested duplicate key": (put("{app: stub, tasks: 3}", "{app: stub, tasks: 3, tasks: 4}"), '"tasks"'),
    "sexagesimal": (put("slots: 2", "slots: 12:30:45"), r"engine\.slots: .*'12:30:45'"),
    "date": (put("run: stub", "run: 2020-01-01"), "run: '2020-01-01' is not valid; expected: 1-20 lower-case"),
    "day 99": (put("slots: 2", "slots: 2020-99-99"), r"engine\.slots: .*'2020-99-99'"),
    "nan": (add("mass_map: [.nan]\n"), r"mass_map\.0: .*finite"),
    "nan for one of two kinds": (trust(".nan"), r"^error: \S+ select\.f_trust_lo: .*finite number \(got nan\)$"),
    "text for one of two kinds": (trust("x"), r"^error: \S+ select\.f_trust_lo: .*number \(got 'x'\)\n"),
    "both kinds of a level": (trust("0.1, adaptive: {}"), r"select\.f_trust_lo: `adaptive` finds this level .*out"),
    "a word for a level": (trust("auto"), r"select\.f_trust_lo: .*write auto_trust_lo: \{error: 0\.1, start: 0\.05\}"),
    "a level by errors too": (
        trust("0.1, auto_trust_lo: {error: 0.1, start: 0.1}"), r"select\.f_trust_lo: `auto_trust_lo` finds this level"
    ),
    "a level by no error": (trust("null, auto_trust_lo: {error: 0, start: 0.1}"), r"auto_trust_lo\.error: .*greater"),
    "no candidates beside": (trust("0.1, check_fraction: 1"), r"select\.check_fraction: .*less than 1"),
    "an rmse of nothing": (add("convergence: {rmse_f: 0}\n"), r"convergence\.rmse_f: .*greater than 0"),
    "no kind of a level": (trust("null"), r"select\.f_trust_lo: this key is required"),
    "no candidate ever": (
        trust("null, adaptive: {numb_candi_f: 0, rate_candi_f: 0}"), r"select\.adaptive: no frame would ever be a cand"
    ),
    "no frame of a file": (put(LABEL, "init: {data: {x: {path: x, every: 0}}}"), r"init\.data\.x\.every: .*0"),
    "YAML 1.1": (b"%YAML 1.1\n---\n" + CONFIG.encode(), r"line 2: YAML 1\.2 is read here, not %YAML 1\.1"),
    "no bool": (put("slots: 2", "slots: !!bool maybe"), "line 3: 'maybe' is no bool; correct it"),
    "no int": (put("slots: 2", "slots: !!int x"), "line 3: 'x' is no int"),
    "no float": (put("slots: 2", "slots: !!float x"), "line 3: 'x' is no float"),
    "empty int": (put("slots: 2", 'slots: !!int ""'), "line 3: '' is no int"),
    "long list": (add(f"mass_map: [{', '.join(['300'] * 160_000)}]\n"), "line 12: more than 20,000 keys and values"),
    "many lines": (add("_x:\n" + "- 300\n" * 130_000), "line 19[0-9]{3}: more than 20,000 keys and values"),
    "a thousand problems": (add("".join(f"k{n}: 1\n" for n in range(1000))), "k19: .*\n.*: and 980 more"),
    "infinity": (add("mass_map: [1.0e999]\n"), r"mass_map\.0: .*finite"),
    "5000 digits": (put("slots: 2", "slots: " + "9" * 5000), r"line 3: '9+\.\.\. is no int"),
    "deep": (add("_x: " + "[" * 3000 + "]" * 3000 + "\n"), "line 12: nested too deeply"),
    "UTF-16": (CONFIG.encode("utf-16"), "not UTF-8"),
    "latin-1": (put("cu.xyz", "c\xfc.xyz").decode().encode("latin-1"), "not UTF-8"),
    "NUL": (add('_c: "a\0b"\n'), "#x0000"),
    "surrogate": (put("cu.xyz", '"\\ud800"'), "Unicode"),
    "tab": (put("  start:", "\tstart:"), "line 6"),
    "integer key": (add("1: x\n"), r"run\.yaml: key 1: "),
    "list key": (add("? [1, 2]\n: x\n"), r"run\.yaml: key \(1, 2\): "),
    "empty": (b"", "the file is empty"),
    "only a comment": (b"# nothing\n", "the file is empty"),
    "two documents": (add("---\nrun: x\n"), "line 12: .*another document"),
    "text": (b"hello", "a mapping of keys is expected"),
    "list": (b"- run\n", "a mapping of keys is expected"),
    "too large": (b"#" * (2**20 + 1), "larger than 1 MiB"),
    # keys and types
    "misspelt key": (put("accurate_after", "acurate_after"), r"select\.acurate_after: .*did you mean 'accurate_after'"),
    "misspelt nested key": (put("slots", "slot"), r"engine\.slot: .*did you mean 'slots'"),
    "foreign key": (add("relax: {app: stub}\n"), "relax: unknown key; known: .*type_map"),
    "list for a stage": (put(STUB, "train: [app, stub]"), r"train\.app: .*required"),
    "nothing for a stage": (put(STUB, "train:"), r"train\.app: .*required"),
    "list for a mapping": (put(LABEL, "init: [start]"), r"init: a mapping of keys is expected \(got a list\)"),
    "text for a list": (put(LABEL, "init: {label: start}"), r"init\.label: a list is expected \(got 'start'\)"),
    "bool for a number": (put("slots: 2", "slots: true"), r"engine\.slots: .*True"),
    "float for an integer": (add("max_iterations: 2.0\n"), r"max_iterations: .*2\.0"),
    "text for an integer": (add('max_iterations: "2"\n'), "max_iterations: .*'2'"),
    "no iterations": (add("max_iterations: 0\n"), "max_iterations: .*0"),
    "negative seed": (add("seed: -1\n"), "seed: .*-1"),
    "huge slots": (put("slots: 2", "slots: " + "9" * 30), r"engine\.slots: "),
    "huge retries": (put(STUB, "train: {app: stub, retries: 1000000000000}"), r"train\.retries: "),
    "ratio above 1": (put(STUB, "train: {app: stub, ratio_failed: 1.5}"), r"train\.ratio_failed: .*1\.5"),
    "accuracy above 1": (add("convergence: {accuracy: 1.5}\n"), r"convergence\.accuracy: .*1\.5"),
    "newer schema": (add("schema_version: 99\n"), "newer dpgen2-sm .*upgrade"),
    "schema 0": (add("schema_version: 0\n"), "schema_version: .*0"),
    "open quote in a command": (
        put(STUB, "train: {app: stub, command: \"dp 'x\"}"),
        r"train\.command: .*is no command: No closing quotation",
    ),
    "template in a command": (put(STUB, 'train: {app: stub, command: "{{x}}"}'), r"train\.command: .*\{\{"),
    "image with a space": (put(STUB, 'train: {app: stub, image: "a b"}'), r"train\.image: .*'a b'"),
    "unknown backend": (put(STUB, "train: {app: deepmd, input: x, backend: jax}"), r"train\.backend: .*'tensorflow'"),
    "no input": (put(STUB, "train: {app: deepmd}"), "train: .*give either input, for all models, or committee"),
    "committee of another size": (
        put(STUB, "train: {app: deepmd, numb_models: 3, committee: [{input: a}]}"),
        "train: .*numb_models is 3, but committee has 1: leave it out",
    ),
    "committee of files": (put(STUB, "train: {app: deepmd, committee: [a.json]}"), r"train\.committee\.0: "),
    "old ratio of all": (
        put(STUB, "train: {app: deepmd, input: x, training_reuse_old_ratio: 1.0}"),
        r"train\.training_reuse_old_ratio: .*less than 1",
    ),
    "empty head": (put(STUB, 'train: {app: deepmd, input: x, head: ""}'), r"train\.head: "),
    "empty branch": (put(STUB, 'train: {app: deepmd, input: x, model_branch: ""}'), r"train\.model_branch: "),
    "text for a flag": (
        put(STUB, "train: {app: deepmd, input: x, use_pretrain_script: 'yes'}"),
        r"train\.use_pretrain_script: .*'yes'",
    ),
    "no epochs": (put(STUB, "train: {app: mace, input: x, max_num_epochs: 0}"), r"train\.max_num_epochs: .*0"),
    "DeePMD-kit's key for MACE": (
        put(STUB, "train: {app: mace, input: x, numb_steps: 5}"), r"train\.numb_steps: unknown key"
    ),
    "list of foundation models": (
        put(STUB, "train: {app: mace, input: x, foundation_model: [a]}"), r"train\.foundation_model: "
    ),
    "unknown app": (put(STUB, "train: {app: deepmdd}"), r"train\.app: there is no 'deepmdd'; .*stub"),
    "app that is a path": (put(STUB, "train: {app: ../x}"), r"train\.app: there is no"),
    # elements and structures
    "unknown element": (put("[Cu]", "[Cux]"), r"type_map\.0: 'Cux' is not an element; did you mean 'Cu'"),
    "element in lower case": (put("[Cu]", "[cu]"), "did you mean 'Cu'"),
    "element twice": (put("[Cu]", "[Cu, Cu]"), "type_map: .*twice"),
    "no element": (put("[Cu]", "[]"), "type_map: "),
    "element of a structure": (put("[Cu]", "[Al]"), r"structures\.start: cu\.xyz: element Cu .* type_map \(Al\)"),
    "two masses": (add("mass_map: [1.0, 2.0]\n"), "mass_map: 2 masses for 1 elements"),
    "unknown structure set": (put(LABEL, "init: {label: [strat]}"), r"init\.label: .*'strat'.*did you mean 'start'"),
    "nothing to begin with": (put(LABEL + "\n", ""), r"init: .*init\.label"),
    "set with a slash": (put("  start:", '  "a/b":'), "structures.a/b: .*is not valid; expected: 1-64 letters"),
    "missing file": (put("cu.xyz", "cuu.xyz"), r"structures\.start\.files: 'cuu\.xyz': there is no such file"),
    "no match": (put("cu.xyz", '"*.foo"'), r"structures\.start\.files: no file matches '\*\.foo'"),
    "folder for a file": (put("cu.xyz", "."), r"structures\.start\.files: .* is not a file"),
    "device for a file": (put("cu.xyz", "/dev/zero"), r"structures\.start\.files: .* is not a file"),
    "file of no user": (put("cu.xyz", "~nosuchuser/cu.xyz"), r"structures\.start\.files: '~nosuchuser"),
    "long file name": (put("cu.xyz", "x" * 5000), r"structures\.start\.files: .*too long"),
    "unknown format": (put(FILES, "{files: cu.xyz, format: foo}"), r"start\.format: neither ASE nor dpdata .* 'foo'"),
    "two super_cells": (put(FILES, "{files: cu.xyz, super_cell: [1, 1]}"), r"structures\.start\.super_cell: "),
    "huge super_cell": (put(FILES, "{files: cu.xyz, super_cell: [100000, 1, 1]}"), r"start\.super_cell\.0: .*100000"),
    "huge pert_numb": (put(FILES, "{files: cu.xyz, pert_numb: 1000000000000}"), r"structures\.start\.pert_numb: "),
    "scale 0": (put(FILES, "{files: cu.xyz, scale: [0]}"), r"structures\.start\.scale\.0: "),
    "vacancies for all atoms": (put(FILES, "{files: cu.xyz, vacancies: 99}"), r"start: .*vacancies: 99 of \d+ atoms"),
    "half an alloy": (put(FILES, "{files: cu.xyz, substitute: {Cu: {Cu: 0.5}}}"), r"substitute\.Cu: .*0\.5 together"),
    "pack beside a slab": (put(FILES, "{files: w.xyz, pack: {molecules: [3], density: 1}, scale: [2]}"), "pack makes"),
    "an empty box": (put(FILES, "{files: w.xyz, pack: {molecules: [0], density: 1}}"), "all are 0"),
    "plane of nothing": (
        put(FILES, "{files: cu.xyz, slab: {miller: [0, 0, 0], layers: 1, vacuum: 9}}"), r"start\.slab: .*no plane"
    ),
    "missing data": (put(LABEL, "init: {data: {a: {path: nope}}}"), r"init\.data\.a: 'nope': there is no such file"),
    # explore/ase
    "langevin at a pressure": (
        ase("{ensemble: npt, temps: [300], press: [1], nsteps: 10, thermostat: langevin}"),
        r"explore\.stages\.0\.0: .*thermostat langevin goes with ensemble nvt, not npt; remove it",
    ),
    "relaxation with a temperature": (
        ase("{ensemble: relax, temps: [300], nsteps: 10}"),
        r"explore\.stages\.0\.0: .*remove temps: relax does not use it",
    ),
    "pressure on a fixed cell": (
        ase("{ensemble: relax, press: [1], nsteps: 10}"), r"explore\.stages\.0\.0: .*press goes with relax_cell: true"
    ),
    "unknown ensemble": (ase("{ensemble: npv, temps: [300], nsteps: 10}"), r"explore\.stages\.0\.0\.ensemble: .*'npv'"),
    "template for ASE": (
        ase("{ensemble: nve, temps: [300], nsteps: 10, template: cu.xyz}"),
        r"explore\.stages\.0\.0\.template: unknown key",
    ),
    # prefixes
    **{
        f"prefix {text}": (put("prefix: out", f"prefix: {text}"), f"prefix.*{why}")
        for text, why in {
            "3": "string", '""': "empty", '"out "': "spaces", '"a\\nb"': "printed", '"a\\0b"': "NUL",
            "/": "name a folder",
            '"a{{x}}"': r"\{\{", "${HOME}/x": "variables", "~nosuchuser/x": "nosuchuser|home", "a\\b": "backslash",
            "x" * 1025: "too long", "cu.xyz": "this is a file", "cu.xyz/below": "Not a directory",
            "http://169.254.169.254/x": "file:///", "ftp://[::1/x": "file:///", "file:/x": "file:///",
            "file://host/x": "file:///", "file://[::1/x": "URL", "file:///": "name a folder", '"file:///x?a#b"': "file:///",
            "file:///x/%00": "printed", "file:///x/%ff": "UTF-8",
        }.items()
    },
    # names
    **{
        f"run {name!r}": (put("run: stub", f"run: {name}"), "run: .* is not valid; expected: 1-20 lower-case letters")
        for name in ("Stub", "x" * 21, "-x", "x-", "1a", "a.b", "$(id)", "ü", "'{{x}}'", "';rm'", '"a\\n"', "a b", '""')
    },
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused_in_one_line(cli: Cli, stub_run: Path, case: str) -> None:
    refused(cli, stub_run, case, "run")


@pytest.mark.parametrize("case", ["alias bomb", "misspelt key", "prefix /", "missing data", "element of a structure"])
@pytest.mark.parametrize("command", ["validate", "init", "doctor"])
def test_every_command_that_reads_it_refuses_it(cli: Cli, stub_run: Path, case: str, command: str) -> None:
    if command != "doctor" or case not in ("missing data", "element of a structure"):  # it reads no files
        refused(cli, stub_run, case, command)


def refused(cli: Cli, stub_run: Path, case: str, command: str) -> None:
    data, expected = BAD[case]
    stub_run.write_bytes(data)
    before = sorted(stub_run.parent.rglob("*"))
    code, output, errors = cli(command, stub_run)
    lines = [line for line in errors.splitlines() if line != "reading structures and data"]
    assert code == 2 and "valid" not in output, errors
    assert lines and all(line.startswith("error: ") for line in lines)
    assert re.search(expected, errors), errors
    assert sorted(stub_run.parent.rglob("*")) == before


GOOD: dict[str, bytes] = {
    "byte order mark": b"\xef\xbb\xbf" + CONFIG.encode(),
    "CRLF": CONFIG.replace("\n", "\r\n").encode(),
    "no is a word, No an element": put("run: stub", "run: no").replace(b"[Cu]", b"[Cu, N, No, Y]"),
    "alias": put(STUB, "_s: &s stub\ntrain: {app: *s}"),
    "merge": put(STUB, "_d: &d {app: other, retries: 5, _note: x}\ntrain: {<<: *d, app: stub}"),
    "merge of two": put(STUB, "_d: &d {app: stub}\n_e: &e {retries: 5}\ntrain: {<<: [*d, *e]}"),
    "comments": add("_note: {1: [x], deep: .nan}\n"),
    "integer mass": add("mass_map: [63]\n"),
    "exponent": add("mass_map: [6e1]\n"),
    "prefix with a space and more": put("prefix: out", "prefix: a %20 *[ü]#?;'x'"),
    "brackets in a file's name": put("cu.xyz", '"cu[1].xyz"'),
}


@pytest.mark.parametrize("case", GOOD)
def test_not_a_mistake(cli: Cli, stub_run: Path, case: str) -> None:
    (stub_run.parent / "cu[1].xyz").write_bytes((stub_run.parent / "cu.xyz").read_bytes())
    stub_run.write_bytes(GOOD[case])
    code, output, errors = cli("validate", stub_run)
    assert (code, errors) == (0, "") and "valid; the run's prefix is file:///" in output


def test_home_is_expanded_in_a_prefix(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(stub_run.parent / "home"))
    stub_run.write_bytes(put("prefix: out", "prefix: ~/out"))
    assert f"prefix is file://{stub_run.parent}/home/out\n" in cli("validate", stub_run)[1]


def test_a_key_of_all_problems_is_named(cli: Cli, stub_run: Path) -> None:
    stub_run.write_bytes(CONFIG.replace("type_map", "typemap").replace("slots: 2", "slots: 0").encode())
    errors = cli("validate", stub_run)[2].splitlines()
    assert len(errors) == 3
    assert any("type_map: this key is required" in line for line in errors)


def test_an_interrupted_init_is_repeated(cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    prefix = stub_run.parent / "out"
    shutil.rmtree(prefix / "event")
    (prefix / "state.json").unlink()
    left = prefix / "dataset" / "deepmd" / "init" / "old" / "type.raw"
    left.parent.mkdir(parents=True)
    left.touch()
    assert cli("init", stub_run)[0] == 0
    assert not left.exists()


def test_data_in_the_prefix_that_no_init_left_are_not_touched(cli: Cli, stub_run: Path) -> None:
    mine = stub_run.parent / "out" / "dataset" / "deepmd" / "init" / "mine" / "type.raw"
    mine.parent.mkdir(parents=True)
    mine.touch()
    code, _, errors = cli("init", stub_run)
    assert code == 2 and "choose an empty folder" in errors
    assert [path for path in (stub_run.parent / "out").rglob("*") if path.is_file()] == [mine]


def test_another_configuration_on_the_same_prefix(cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    assert cli("init", stub_run)[0] == 0
    other = stub_run.with_name("other.yaml")
    other.write_bytes(add("seed: 9\n"))
    for command in ("init", "run"):
        code, _, errors = cli(command, other)
        assert code == 2 and "another configuration (differs in: seed)" in errors


@pytest.mark.parametrize("command", ["validate", "init"])
def test_a_file_name_that_not_every_store_can_keep(cli: Cli, stub_run: Path, command: str) -> None:
    name = f"{'x' * 246}.xyz"
    (stub_run.parent / "cu.xyz").rename(stub_run.parent / name)
    stub_run.write_bytes(put("cu.xyz", name))
    code, output, errors = cli(command, stub_run)
    assert (code, output) == (2, "")
    assert re.fullmatch(
        r"error: structures\.start\.files: the name of x{40}\.\.\. has 250 characters, .*file\n", errors
    )


@pytest.mark.parametrize("pattern", ["**/cu.xyz", "**/*.xyz", "*/**/cu.xyz"])
def test_a_pattern_does_not_go_in_circles(cli: Cli, stub_run: Path, pattern: str) -> None:
    """Six links would make 6^40 paths, before the system refuses the 41st link."""
    stub_run.write_bytes(put("cu.xyz", f"'{pattern}'"))
    data = stub_run.parent / "data"
    data.mkdir()
    (stub_run.parent / "cu.xyz").rename(data / "cu.xyz")
    for number, target in enumerate([".", "..", "../data", "./.", "nowhere", "link5"]):
        (data / f"link{number}").symlink_to(target)
    code, output, errors = cli("validate", stub_run)
    assert (code, errors) == (0, "") and "structures.start: " in output


def test_a_pattern_finds_what_is_behind_a_link(
    cli: Cli, stub_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (stub_run.parent / "cu.xyz").rename(elsewhere / "cu.xyz")
    (stub_run.parent / "data").symlink_to(elsewhere)
    stub_run.write_bytes(put("cu.xyz", '"**/*.xyz"'))
    assert "structures.start: 1 structure\n" in cli("validate", stub_run)[1]


def test_a_pattern_that_means_a_whole_disk(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "MOST_LOOKED_AT", 3)
    for number in range(3):
        (stub_run.parent / f"{number}").touch()
    stub_run.write_bytes(put("cu.xyz", '"**/x*.xyz"'))
    code, _, errors = cli("validate", stub_run)
    assert code == 2 and re.search(
        r"^error: structures\.start\.files: .* more than 3 files; name their folders$", errors
    )


@pytest.mark.parametrize("command", ["init", "run"])
@pytest.mark.parametrize("prefix", ["out/inside", "out/dataset/deepmd/inside", "."])
def test_a_run_inside_another_one(cli: Cli, stub_run: Path, prefix: str, command: str) -> None:
    """The outer run would take its labels, and a daemon that discovers runs would not see it."""
    assert cli("init", stub_run)[0] == 0
    other = stub_run.with_name("other.yaml")
    other.write_bytes(put("prefix: out", f"prefix: {prefix}"))
    before = sorted(stub_run.parent.rglob("*"))
    code, output, errors = cli(command, other)
    assert (code, output, len(errors.splitlines())) == (2, "", 1)
    assert ("there is a run below" if prefix == "." else "is inside the run 'stub' at file://") in errors
    assert "choose another prefix" in errors and sorted(stub_run.parent.rglob("*")) == before


def test_a_state_of_another_program_is_no_run_around_it(cli: Cli, stub_run: Path) -> None:
    (stub_run.parent / "state.json").write_text('{"version": 4}')
    assert cli("init", stub_run)[0] == 0


@pytest.mark.parametrize("where", ["conventions.names:NOPE", "nowhere_at_all:APP"])
def test_an_app_that_is_installed_wrongly_is_named(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(registry, "known", lambda: {"label.orca": where})
    with pytest.raises(ConfigError, match=rf"label\.app: 'orca' is installed as {where}, which cannot be used"):
        registry.app("label", "orca")
