"""All that touches verl's insides: its platform, engines, workers, rollouts and queue."""

PACKED_ATTENTION = "ctwa_packed"
"""The name under which transformers finds the attention of :mod:`ctwa.engine.verl.packing`, which is for CPUs."""
