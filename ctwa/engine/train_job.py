"""The job of `ctwa train`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ctwa.engine.checks.applies import coverage_lines
from ctwa.engine.checks.conditioning import described
from ctwa.engine.checks.config import check_config, check_disk, num_steps
from ctwa.engine.checks.curriculum import curriculum_lines
from ctwa.engine.checks.engine import check_with_verl
from ctwa.engine.checks.idle import remarks
from ctwa.engine.checks.look import data_lines
from ctwa.engine.checks.resources import check_machine
from ctwa.engine.checks.turns import has_turns, turns_line
from ctwa.engine.job import Job
from ctwa.engine.passes import passes_text, update_passes
from ctwa.engine.plan import decoding, line, loss_line, optimizer_line, size_lines, validation_line
from ctwa.engine.resumed import BOUND
from ctwa.method_info import with_options
from ctwa.run.folder import ObjectiveInfo

if TYPE_CHECKING:
    from ctwa.engine.data import RunData
    from ctwa.engine.recorder import Recorder
    from ctwa.engine.sampling import Sampler
    from ctwa.engine.settings import Settings
    from ctwa.engine.train import MultiObjectiveTrainer
    from ctwa.scalarizers.base import Scalarizer


class TrainJob(Job):
    """A training on rewards.

    Attributes:
        data: the rows.
    """

    command: ClassVar[str] = "train"
    settings: Settings
    data: RunData

    def check(self) -> None:
        """Check config, disk, machine, and what verl says of it."""
        self.data = check_disk(self.config)
        self.settings = check_config(self.config, self.data)
        check_machine(self.config)
        check_with_verl(self.config, has_reference=self.settings.has_reference(self.config))
        self.num_steps = num_steps(self.config, self.data)
        self.num_samples = self.settings.num_samples
        self.remarks = list(remarks(self.config, self.settings, self.num_steps))

    @property
    def bound(self) -> Sequence[str]:
        """What a checkpoint's tensors and states are of.

        A data loader finds its place again with as many processes alone; a curriculum has a place of its own. Running
        moments, the estimate of cross-fitted gradients and an adaptive penalty go on where they were kept.
        """
        keys = [*BOUND, "ctwa.curriculum.sources", "ctwa.curriculum.difficulty"]
        if not self.settings.curriculum.is_on:
            keys.append("data.dataloader_num_workers")
        if self.settings.rewards.standardise == "running":
            keys.append("ctwa.rewards.standardise")
        if self.config.ctwa.gradients.gram == "cross_fitted":
            keys.append("ctwa.gradients.gram")
        if self.config.algorithm.use_kl_in_reward and self.config.algorithm.kl_ctrl.type == "adaptive":
            keys += ["algorithm.use_kl_in_reward", "algorithm.kl_ctrl.type"]
        return keys

    def about(self) -> dict[str, Any]:
        """With the targets of covariances, where the method has any."""
        scalarizer = self.settings.build_scalarizer()
        targets = scalarizer.covariance_targets
        weights = {name: objective.weight for name, objective in self.settings.trained.items()}
        objectives = {
            name: ObjectiveInfo(weight=weights.get(name, 0.0), target=targets.get(name))
            for name in self.settings.objectives
        }
        return {
            "method": self.settings.method.type,
            "objectives": objectives,
            "covariances": self.settings.log_probs_source(scalarizer.requirements) != "none",
            "decoding": decoding(self.config),
        }

    def plan_lines(self) -> list[str]:
        """Method and objectives; steps, tokens and passes."""
        config, scalarizer = self.config, self.settings.build_scalarizer()
        source = self.settings.log_probs_source(scalarizer.requirements)
        weights = ", ".join(f"{name} ({weight:g})" for name, weight in scalarizer.weights.items())
        no_part = "; their own weights play no part, except that 0 leaves one out"
        rows = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
        tokens = rows * (config.data.max_prompt_length + config.data.max_response_length)
        prompts = f"{config.data.train_batch_size} prompts x {config.actor_rollout_ref.rollout.n} completions"
        choice = self.settings.dynamic_sampling
        covered, shaping = coverage_lines(self.settings, self.data), self.settings.build_shaping().described()
        curriculum, conditioning = curriculum_lines(self.settings, self.data), self.settings.build_conditioning()
        measures_gradients = scalarizer.aggregator is not None or self.settings.diagnostics.gradients_every
        told_weights = [] if conditioning is None else described(self.settings, conditioning)
        return [
            line("method", f"{with_options(self.settings.method)}, log-probs of the statistic: {source}"),
            line("objectives", weights + no_part * (not scalarizer.goes_by_weights)),
            *(line("" if number else "of which", told) for number, told in enumerate(covered)),
            *([line("rewards", "; ".join(shaping))] if shaping else []),
            *self.engine_lines(),
            *([line("turns", turns_line(config))] if has_turns(config) else []),
            *data_lines(config, self.data, conditioning),
            *(line("" if number else "weights", told) for number, told in enumerate(told_weights)),
            line("steps", f"{self.num_steps}, at most {tokens * self.num_steps:,} tokens in all"),
            line("a step", f"{prompts} = {rows} completions, at most {tokens:,} tokens"),
            *(line("" if number else "curriculum", told) for number, told in enumerate(curriculum)),
            *([] if choice.keep == "every" else [line("prompts", choice.described())]),
            line("passes", "; ".join(self._passes(scalarizer))),
            *([line("gradients", self.settings.gradients.described())] if measures_gradients else []),
            loss_line(config),
            optimizer_line(config, self.num_steps),
            *size_lines(
                config,
                num_models=1 + self.settings.has_reference(config),
                num_gradients=update_passes(config, self.settings, scalarizer).num_gradients,
            ),
            validation_line(config, f", {decoding(config)}"),
        ]

    def _passes(self, scalarizer: Scalarizer) -> list[str]:
        config, settings = self.config, self.settings
        actor = config.actor_rollout_ref.actor
        num_updates = config.data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs
        passes = passes_text(config, update_passes(config, settings, scalarizer))
        is_probed = settings.probe_source(scalarizer.requirements) == "backward"
        is_measured_after = settings.log_probs_source(scalarizer.requirements) == "post_update"
        return [
            *["old log-probs (1 forward)"] * (not config.algorithm.rollout_correction.bypass_mode),
            *["reference log-probs (1 forward)"] * settings.has_reference(config),
            f"update ({num_updates} optimizer step{'s' * (num_updates > 1)}, {passes} of the batch an epoch)",
            *["statistic after the update (1 forward)"] * is_measured_after,
            *["probe (1 forward)"] * is_probed,
        ]

    def run(self, recorder: Recorder) -> None:
        """Start the engine, train, and end everything that was started."""
        from ctwa.engine.sampling import sampling_engine  # verl's import takes seconds

        max_missing = self.settings.rollout.max_missing
        with sampling_engine(self.config, self.settings, self.data, recorder, max_missing=max_missing) as sampler:
            self.trainer(sampler, recorder).fit()

    def trainer(self, sampler: Sampler, recorder: Recorder) -> MultiObjectiveTrainer:
        """What trains on an engine that is up."""
        from ctwa.engine.train import MultiObjectiveTrainer

        return MultiObjectiveTrainer(self.config, self.settings, self.settings.build_scalarizer(), sampler, recorder)
