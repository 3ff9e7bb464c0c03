"""From an app to a manifest: the builder, the dressing for pods, shipped code, batch systems.

What may enter: what says how a stage is run. What a stage does belongs to its apps.
"""

from .builder import StageWorkflow, build, seal

__all__ = ["StageWorkflow", "build", "seal"]
