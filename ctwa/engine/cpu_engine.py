"""verl's FSDP engine where main memory is the device."""

from __future__ import annotations

from torch import nn
from verl.workers.engine import FSDPEngineWithLMHead


class CpuEngine(FSDPEngineWithLMHead):
    """verl's FSDP engine, with a reference policy that is sharded as the policy is."""

    def _build_fsdp_module(self, module: nn.Module) -> nn.Module:
        # verl offloads whatever is never trained to pinned main memory. Here it is in main memory already, and torch
        # can pin memory for an accelerator only.
        config = self.engine_config
        forward_only, config.forward_only = config.forward_only, False
        try:
            return super()._build_fsdp_module(module)
        finally:
            config.forward_only = forward_only
