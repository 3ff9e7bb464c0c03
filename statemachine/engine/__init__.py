"""Workflow engines behind one small protocol."""

from .base import Engine, Phase, Status

__all__ = ["Engine", "Phase", "Status"]
