"""Opening the engine that a configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from statemachine.store import Store, local_folder

from .base import Engine

if TYPE_CHECKING:
    from conventions.cluster import EngineConfig


def engine_root(prefix: str, run_uid: str) -> Path:
    """Where the local engine keeps its workflows: beside the data when they are on this machine."""
    data = local_folder(prefix)
    if data:
        return data / ".engine"
    return Path.home() / ".cache" / "dpgen2-sm" / run_uid


def open_engine(settings: EngineConfig, store: Store, run_uid: str) -> Engine:
    """The engine of a run; only the one that is used is imported."""
    if settings.type == "argo":
        from .argo import ArgoEngine

        return ArgoEngine(settings, store.secrets)
    from .local import LocalEngine

    return LocalEngine(engine_root(store.url, run_uid), store.url, settings.slots, settings.gpus)
