"""Which prompts have a signal: an objective tells a prompt's completions apart, or gives all of them one value.

A prompt whose completions all have one value under an objective says nothing about it: its advantages are 0 for every
estimator that compares the completions of a prompt.

Dimensions: N completions, M objectives, G prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.batch import RewardMatrix

Keep = Literal["any", "all"] | float


@dataclass(frozen=True)
class Signal:
    """What the prompts of a batch say about its objectives.

    Attributes:
        names: the M objectives.
        varies_GM: bool, whether two scored completions of the prompt differ.
        scored_GM: bool, whether a completion of the prompt was scored.
        prompt_N: int64, the prompt of each completion, as an index into the G ones.
    """

    names: tuple[str, ...]
    varies_GM: Tensor
    scored_GM: Tensor
    prompt_N: Tensor

    @classmethod
    def of(cls, rewards: RewardMatrix, group_N: Tensor) -> Signal:
        """Look at a batch.

        Args:
            rewards: of the N completions; what was not scored, for whatever reason, has no influence.
            group_N: int64, the prompt of each row. The G prompts are in the order of these numbers.
        """
        _, prompt_N = torch.unique(group_N, return_inverse=True)
        num_prompts = int(prompt_N.max()) + 1 if len(prompt_N) else 0
        place_NM = prompt_N[:, None].expand_as(rewards.rewards_NM)
        ends_GM = [
            torch.full((num_prompts, len(rewards.names)), empty, dtype=torch.float64).scatter_reduce(
                0, place_NM, torch.where(rewards.scored_NM, rewards.rewards_NM, empty), reduce=reduce
            )
            for empty, reduce in ((float("inf"), "amin"), (float("-inf"), "amax"))
        ]
        return cls(rewards.names, ends_GM[1] > ends_GM[0], ends_GM[1] >= ends_GM[0], prompt_N)

    def counts_G(self, keep: Keep, weights: Mapping[str, float | Tensor]) -> Tensor:
        """Bool (G,), the prompts that count.

        Args:
            keep: ``any`` wants an objective that varies, ``all`` wants that all vary, and a number that those which
                vary have this share of the weight. Only objectives count that have a weight, and a completion of the
                prompt that was scored. A prompt in which no such objective varies never counts.
            weights: of the objectives, by name: one for all prompts, or one for each, (G,).
        """
        weights_MG = [torch.as_tensor(weights[name], dtype=torch.float64) for name in self.names]
        weights_GM = torch.stack([each_G.expand(len(self.varies_GM)) for each_G in weights_MG], dim=1)
        asked_GM = self.scored_GM & (weights_GM > 0)
        varies_GM = self.varies_GM & asked_GM
        some_G = varies_GM.any(1)
        if keep == "any":
            return some_G
        if keep == "all":
            return some_G & (varies_GM == asked_GM).all(1)
        # NaN, which is no share, without any.
        share_G = (weights_GM * varies_GM).sum(1) / (weights_GM * asked_GM).sum(1)
        return some_G & (share_G >= keep)

    def metrics(self) -> dict[str, float]:
        """``objective/<name>/no_signal_frac`` and ``rollout/no_signal_frac``.

        The first is the share of the prompts with a scored completion in which the objective does not vary; it is left
        out where there is none. The second is the share of all prompts in which no objective does.
        """
        metrics = {}
        if len(self.varies_GM):
            metrics[key_of.NO_SIGNAL] = 1 - float(self.varies_GM.any(1).double().mean())
        for name, varies_G, scored_G in zip(self.names, self.varies_GM.T, self.scored_GM.T, strict=True):
            if scored_G.any():
                metrics[key_of.no_signal(name)] = 1 - float(varies_G[scored_G].double().mean())
        return metrics
