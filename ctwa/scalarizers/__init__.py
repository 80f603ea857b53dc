from ctwa.scalarizers.base import ClipRange, Estimate, Requirements, Rollout, Scalarizer, Update

__all__ = ["ClipRange", "Estimate", "Requirements", "Rollout", "Scalarizer", "Update"]
