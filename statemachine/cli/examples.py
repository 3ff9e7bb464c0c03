"""What a person would type: shown at the end of each command's help."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "validate": ("validate run.yaml",),
    "init": ("init run.yaml",),
    "run": ("run run.yaml",),
    "resume": ("resume run.yaml", "resume s3://bucket/copper"),
    "step": ("step run.yaml",),
    "daemon": (
        "daemon run.yaml other.yaml --listen 127.0.0.1:8080",
        "daemon --discover s3://bucket/group --stay --log-format json",
    ),
    "notify": ("notify http://127.0.0.1:8080/hook copper",),
    "pause": ('pause run.yaml --reason "the disk is full"',),
    "cancel": ("cancel run.yaml",),
    "rewind": ("rewind run.yaml --stage train --iter 3",),
    "patch": ("patch run.yaml",),
    "extend": ("extend run.yaml --iterations 5",),
    "fork": ("fork copied/run",),
    "trust": ("trust run.yaml",),
    "prune": ("prune run.yaml", "prune run.yaml --yes"),
    "export": ("export run.yaml data --data extxyz --models", "export run.yaml tree --dpgen"),
    "migrate": ("migrate runs/copper s3://bucket/copper",),
    "test": ("test run.yaml data/water", "test run.yaml OUTCAR --format vasp/outcar --iter 3"),
    "report": (
        "report run.yaml",
        "report s3://bucket/copper -o copper.html",
        "report run.yaml --png plots",
        "report run.yaml --json",
    ),
    "explain": ("explain run.yaml 3", "explain run.yaml 2/14", "explain run.yaml label/3/12"),
    "replay": (
        "replay run.yaml --rule wider.yaml",
        "replay run.yaml --rule a.yaml --rule b.yaml --retrain -o replay.svg",
    ),
    "top": ("top copper.yaml water.yaml", "top --discover s3://bucket/group"),
    "web": ("web run.yaml other/run.yaml", "web --discover runs --listen 127.0.0.1:8090"),
    "import": ("import param.json machine.json -o run", "import param.json machine.json -o run --adopt old/run"),
    "status": ("status run.yaml", "status run.yaml --watch", "status run.yaml --json"),
    "list": ("list runs s3://bucket/group",),
    "logs": ("logs run.yaml", "logs run.yaml --stage label --iter 2 --job 7 --follow"),
    "plan": ("plan run.yaml",),
    "schema": ("schema > schema.json",),
    "doctor": ("doctor run.yaml --try", "doctor s3://bucket/copper --repair"),
}


def epilog(command: str) -> str | None:
    """The lines of a command's help, kept as they are."""
    lines = EXAMPLES.get(command)
    return "\b\n" + "\n".join(["Examples:", *(f"  dpgen2-sm {line}" for line in lines)]) if lines else None
