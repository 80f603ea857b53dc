"""The job of `ctwa prefer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf, open_dict

from ctwa.engine.checks.folders import check_folders
from ctwa.engine.checks.look import look_at_trained_model
from ctwa.engine.checks.model import check_model, model_source
from ctwa.engine.checks.pairs import check_pair_settings
from ctwa.engine.checks.resources import check_machine
from ctwa.engine.job import Job
from ctwa.engine.passes import pair_passes, passes_text
from ctwa.engine.plan import line, optimizer_line, reference_line, size_lines, validation_line
from ctwa.engine.prefer_settings import PreferenceSettings
from ctwa.engine.ray_servers import processes
from ctwa.engine.ray_session import ray_session
from ctwa.method_info import with_options
from ctwa.models.look import look_at_model, look_at_tokenizer
from ctwa.models.source import Source
from ctwa.run.folder import ObjectiveInfo

if TYPE_CHECKING:
    from ctwa.engine.pairs.data import PreferenceData
    from ctwa.engine.recorder import Recorder


class PreferJob(Job):
    """A training on preference pairs.

    Attributes:
        data: the pairs.
        tokenizer: the model's.
    """

    command: ClassVar[str] = "prefer"
    settings: PreferenceSettings
    num_samples = 0

    def check(self) -> None:
        """Check config, models, machine and pairs."""
        self.settings = check_preference_config(self.config)
        check_machine(self.config, samples=False)
        self.data, self.tokenizer, self.num_steps = prepare_data(self.config, self.settings)
        with open_dict(self.config):
            self.config.actor_rollout_ref.actor.optim.total_training_steps = self.num_steps

    def about(self) -> dict[str, Any]:
        """With the loss beside the method."""
        return {
            "method": f"{self.settings.method_name}, {self.settings.loss.type}",
            "objectives": {name: ObjectiveInfo(weight=weight) for name, weight in self.settings.weights.items()},
            "result": "share of held-out pairs that the policy ranks as the objective prefers",
            "covariances": False,
        }

    def _rollout(self) -> str:
        return str(self.config.actor_rollout_ref.actor.strategy)  # there is no rollout

    def plan_lines(self) -> list[str]:
        """Method, objectives and pairs; steps and passes."""
        config, settings = self.config, self.settings
        passes, stopping = pair_passes(settings), settings.early_stopping
        num_pairs = sum(len(part.pairs) for part in (*self.data.train, *self.data.validation))
        tokens = 2 * config.data.train_batch_size * settings.max_length
        fewer = "" if stopping is None else f", fewer if {stopping.patience} validations in a row are no better"
        return [
            line(
                "method", f"{with_options(settings.method, settings.method_name)}, loss {with_options(settings.loss)}"
            ),
            line("objectives", ", ".join(f"{name} ({weight:g})" for name, weight in settings.weights.items())),
            *(
                line(
                    "pairs",
                    f"{len(train.pairs)} of {train.tokens.source} ({', '.join(train.tokens.objectives)}), "
                    f"{len(validation.pairs)} to validate",
                )
                for train, validation in zip(self.data.train, self.data.validation, strict=True)
            ),
            *self.engine_lines(),
            line("steps", f"{self.num_steps}{fewer}"),
            line("a step", f"{config.data.train_batch_size} pairs, at most {tokens:,} tokens"),
            line("passes", f"update ({passes_text(config, passes)} of the pairs)"),
            reference_line(f"{num_pairs:,}" if settings.needs_reference else ""),
            optimizer_line(config, self.num_steps),
            *size_lines(config, num_models=0, num_gradients=passes.num_gradients),
            validation_line(config, ends_with_both=True),
        ]

    def run(self, recorder: Recorder) -> None:
        """Start the engine, train, and end everything that was started."""
        recorder.begins("starting Ray")
        watchdog = recorder.watchdog
        with ray_session(self.config, transfer_queue=False, say=watchdog.say), watchdog.sees(processes):
            from ctwa.engine.pairs.workers import start_workers  # verl's import takes seconds

            num_ranks = self.config.trainer.nnodes * self.config.trainer.n_gpus_per_node
            recorder.begins(f"loading the model into {num_ranks} rank{'s' * (num_ranks > 1)}; each imports torch first")
            with watchdog.phase("start"):
                group = start_workers(self.config)
            recorder.engine_is_up()
            for source, reasons in self.data.skipped.items():
                told = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
                recorder.event("skipped", f"rows left out of {source}: {told}")
            self.train(group, recorder)

    def train(self, group: Any, recorder: Recorder) -> None:
        """Train on workers that are up, and hold the model that is the reference."""
        from ctwa.engine.pairs.objective import PairLoss
        from ctwa.engine.pairs.workers import PreferenceWorkers
        from ctwa.engine.prefer import PreferenceTrainer

        settings, data, actor = self.settings, self.data, self.config.actor_rollout_ref.actor
        workers = PreferenceWorkers(
            group,
            PairLoss(settings.training_loss, settings.trained, skip_absent=not actor.use_dynamic_bsz),
            pad_token_id=_pad_token_id(self.tokenizer),
            micro_batch=1 if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu,
        )
        if settings.needs_reference:
            recorder.begins("computing the reference's log-probabilities, where they are not kept from before")
            # The policy is the reference still: a checkpoint is loaded afterwards.
            model = self.config.actor_rollout_ref.model.path
            data.add_reference(settings, model, self.tokenizer, workers.log_probs)
        if settings.modpo is not None:
            data.add_margins(settings, self.tokenizer)
        PreferenceTrainer(
            self.config, settings=settings, data=data, workers=workers, recorder=recorder, num_steps=self.num_steps
        ).fit()


def check_preference_config(config: DictConfig) -> PreferenceSettings:
    """Check all that can be known from the config, and the policies that it names.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    check_folders(config)
    settings = check_pair_settings(config)
    for name, policy in (settings.modpo.policies if settings.modpo else {}).items():
        look_at_model(Source(policy, f"ctwa.modpo.policies.{name}"))
    return settings


def prepare_data(config: DictConfig, settings: PreferenceSettings) -> tuple[PreferenceData, object, int]:
    """Look at the model, read the pairs, and see that a step's batch is not more than they are.

    Returns:
        The pairs, the tokenizer, and the number of steps.

    Raises:
        CtwaError: what does not fit, and what to write.
    """
    from transformers import AutoTokenizer

    from ctwa.engine.pairs.data import read_data
    from ctwa.preference.sampling import PairSampler

    source = model_source(config)
    model = look_at_trained_model(config)
    check_model(config, settings.gradients, model, settings.max_length, "ctwa.max_length")
    tokenizer = look_at_tokenizer(source, model) or AutoTokenizer.from_pretrained(source.name)
    if template := config.actor_rollout_ref.model.get("custom_chat_template"):
        tokenizer.chat_template = template
    kwargs: Any = OmegaConf.to_container(config.data.apply_chat_template_kwargs)
    data = read_data(settings, tokenizer, kwargs)
    sampler = PairSampler(
        [len(part.pairs) for part in data.train], batch_size=config.data.train_batch_size, seed=settings.seed
    )
    steps = config.trainer.total_training_steps
    if steps is None:
        steps = sampler.steps_per_epoch * config.trainer.total_epochs
    return data, tokenizer, steps


def _pad_token_id(tokenizer: object) -> int:
    pad = getattr(tokenizer, "pad_token_id", None)
    return int(pad if pad is not None else tokenizer.eos_token_id)  # type: ignore[attr-defined]
