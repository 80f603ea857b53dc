"""The job of `ctwa caid`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import open_dict

from ctwa.engine.caid_settings import CaidSettings, read_caid_settings
from ctwa.engine.checks.config import check_disk
from ctwa.engine.checks.engine import check_with_verl
from ctwa.engine.checks.look import data_lines
from ctwa.engine.checks.pairs import check_prompts
from ctwa.engine.checks.resources import check_machine
from ctwa.engine.job import Job
from ctwa.engine.passes import UpdatePasses, passes_text
from ctwa.engine.plan import line, optimizer_line, reference_line, size_lines
from ctwa.run.folder import ObjectiveInfo

if TYPE_CHECKING:
    from ctwa.engine.data import RunData
    from ctwa.engine.recorder import Recorder
    from ctwa.preference.caid import CaidConfig


class CaidJob(Job):
    """An alignment under constraints.

    Attributes:
        data: the prompts.
        num_prompts: that are sampled.
    """

    command: ClassVar[str] = "caid"
    settings: CaidSettings
    data: RunData
    num_prompts: int

    def check(self) -> None:
        """Check config, disk, machine, and what verl says of it."""
        self.data = check_disk(self.config)
        self.settings = read_caid_settings(self.config, self.data)
        rows = self.data.validation.num_rows
        self.num_prompts = check_prompts(self.config, self.settings.pairs_per_prompt, rows)
        check_machine(self.config)
        check_with_verl(self.config, has_reference=self.config.actor_rollout_ref.actor.use_kl_loss)
        self.num_steps = self.settings.caid.iterations * self.settings.steps_per_iteration
        self.num_samples = self.settings.num_samples
        with open_dict(self.config):
            self.config.trainer.total_training_steps = self.num_steps
            self.config.trainer.test_freq = -1  # a policy is measured at the end of its iteration

    def about(self) -> dict[str, Any]:
        """Everything that scores, with its weight in the reward."""
        weights = self.settings.reward_weights
        return {
            "method": "caid",
            "objectives": {name: ObjectiveInfo(weight=weights.get(name, 0.0)) for name in self.settings.names},
            "result": "mean score of the policy's samples",
            "covariances": False,
        }

    def plan_lines(self) -> list[str]:
        """Reward and constraints; samples, policies and steps."""
        config, settings = self.config, self.settings
        kind = "PeCAID" if settings.policies else "MoCAID"
        prompts, num_samples = self.num_prompts, config.actor_rollout_ref.rollout.val_kwargs.n
        samples = f"{prompts} prompts x {num_samples} = {prompts * num_samples:,}"
        tokens = 2 * config.data.train_batch_size * (config.data.max_prompt_length + config.data.max_response_length)
        steps = f"{settings.steps_per_iteration} steps of {config.data.train_batch_size} pairs each"
        return [
            line("method", f"{kind}, labels {settings.labels}"),
            line("reward", " + ".join(f"{weight:g} {name}" for name, weight in settings.reward_weights.items())),
            *(
                line("constraint", f"{name} at least {value:g} above the reference")
                for name, value in settings.caid.thresholds.items()
            ),
            *self.engine_lines(),
            *data_lines(config, self.data),
            line("samples", f"{samples}, of the reference and of each policy"),
            line("beta", f"{settings.caid.beta:g}; multipliers {_multipliers(settings.caid)}"),
            line("policies", f"at most {settings.caid.iterations}, {steps}"),
            line("a step", f"{config.data.train_batch_size} pairs, at most {tokens:,} tokens"),
            line("passes", f"update ({passes_text(config, UpdatePasses())} of the pairs)"),
            reference_line(f"at most {prompts * settings.pairs_per_prompt:,}"),
            optimizer_line(config, self.num_steps),
            *size_lines(config, num_models=1 + settings.has_reference(config)),
        ]

    def run(self, recorder: Recorder) -> None:
        """Start the engine, train, and end everything that was started."""
        from ctwa.engine.caid import CaidTrainer  # verl's import takes seconds
        from ctwa.engine.sampling import sampling_engine

        # Each prompt is to have as many samples.
        with sampling_engine(self.config, self.settings, self.data, recorder, max_missing=0.0) as sampler:
            CaidTrainer(self.config, settings=self.settings, sampler=sampler, recorder=recorder).fit()


def _multipliers(caid: CaidConfig) -> str:
    step = f"steps of {caid.eta:g}" if caid.eta is not None else f"Newton's steps damped by {caid.damping:g}"
    return f"up to {caid.cap:g}, {step}, until every slack is within {caid.stop_at:g} standard errors of 0"
