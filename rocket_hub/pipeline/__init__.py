"""The whole method, one stage after the other, resumable: `build(recipe, kshot)`."""

from rocket_hub.pipeline.build import STAGES, Build, build

__all__ = ["STAGES", "Build", "build"]
