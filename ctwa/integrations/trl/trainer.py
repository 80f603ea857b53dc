"""TRL's GRPOTrainer with a method of ctwa in it. The one module here that imports TRL.

Dimensions: N completions of all processes, n those of this process, M objectives, T tokens, S some rows of the n.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from ctwa import metrics as key_of
from ctwa.batch import Rollout, Update
from ctwa.covariance.diagnostics import diagnostics
from ctwa.errors import CtwaError
from ctwa.gradients.plan import GradientPlan, gradient_metrics, make_cross_fitted, make_plan
from ctwa.integrations.trl import checks
from ctwa.integrations.trl.between import Between
from ctwa.integrations.trl.contract import check_contract
from ctwa.integrations.trl.descent import Descent
from ctwa.integrations.trl.estimate import Answered, TrlEstimate
from ctwa.integrations.trl.loss import read_policy_loss
from ctwa.integrations.trl.record import HOW_TO_RESUME, begin, how_to_go_on, load_state, save_state
from ctwa.integrations.trl.window import Validation, Window, of_completions, prompts_of, read_rewards
from ctwa.method_info import Options
from ctwa.report.summary import write_summary
from ctwa.run.folder import RunFolder
from ctwa.run.recorder import RunRecorder
from ctwa.run.text import said
from ctwa.scalarizers.base import weighted_scores
from ctwa.state import Stateful

_ROW = "ctwa_row"
"""A column beside TRL's own, which goes through its shuffling: the place of a completion among those of its process."""


class MultiObjectiveGRPOTrainer(GRPOTrainer):
    """TRL's ``GRPOTrainer``, in which a method of ctwa turns the rewards of several functions into advantages.

    An objective has the name of its reward function, and its weight of ``GRPOConfig(reward_weights=...)``. The run is
    recorded in ``output_dir``, for ``ctwa report``, ``watch``, ``summary`` and ``compare``.

    Args:
        method: a method's name, or its options with the name as ``type``: ``{"type": "ctwa", "eta": 0.1}``, or what
            ``ctwa.methods.method_options`` made.
        targets: the objectives' covariance targets, by name, for a method that steers by them.
        gradients: how the objectives' gradients are taken, for a method that combines them: options of
            ``GradientSettings``.
        arguments: TRL's, in its order.
        options: TRL's, by name.

    Raises:
        CtwaError: the method, or what TRL is asked for beside it, would not do what it says.
    """

    reward_weights: Tensor

    def __init__(
        self,
        *arguments: Any,
        method: str | Mapping[str, Any] | Options = "linear",
        targets: Mapping[str, float] | None = None,
        gradients: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        config = checks.read_method(method, targets)
        self._taken = checks.read_gradients(gradients)
        check_contract(GRPOTrainer, GRPOConfig)  # before a model is loaded; what an instance has, after
        super().__init__(*arguments, **options)
        check_contract(GRPOTrainer, GRPOConfig, self)
        given = self.args.reward_weights or []
        weights = [*given, *[1.0] * (len(self.reward_func_names) - len(given))]
        self.scalarizer = checks.build_method(config, self.reward_func_names, weights, targets, self.args)
        checks.check_gradients(self._taken, self.scalarizer, self.args, str(self.accelerator.distributed_type.value))
        self._cross_fitted = make_cross_fitted(self._taken, self.scalarizer, every=0)
        self._policy_loss = read_policy_loss(self.args)
        wanted = self.scalarizer.requirements.log_probs
        self._source = ("none" if self._policy_loss is None else "in_update") if wanted == "none" else wanted
        self._weights_left = self.reward_weights.clone()
        self._recorder: RunRecorder | None = None
        self._resume_after: int | None = None
        self._step_metrics: dict[str, float] = {}
        self._rewards = read_rewards(self.reward_func_names, torch.zeros(0, len(weights)))
        self._window: Window | None = None
        self._rows_S: Tensor | None = None
        self._old_ST: Tensor | None = None
        self._pass: Any = None
        self._began = 0.0
        self._validation: Validation | None = None
        self.add_callback(Between(self))

    # -- a batch of completions ---------------------------------------------------------------------------------------

    def _calculate_rewards(self, *arguments: Any, **options: Any) -> Tensor:
        rewards_NM: Tensor = super()._calculate_rewards(*arguments, **options)
        self._rewards = read_rewards(self.reward_func_names, rewards_NM)
        return rewards_NM

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL's own advantages and its log are by the weights that the method has now.
        checks.check_weights_are_kept(self.reward_weights, self._weights_left, self.scalarizer.config.type)
        weights = self.scalarizer.weights
        self.reward_weights = torch.tensor([weights[name] for name in self.reward_func_names], dtype=torch.float32)
        self._weights_left = self.reward_weights.clone()
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:
            self._begin_window(output)
        elif self._validation is not None:
            self._validation.parts.append((self._rewards, self.num_generations_eval))
        return output

    def _begin_window(self, output: dict[str, Any]) -> None:
        """Let the method turn the rewards into advantages, and put them in the place of TRL's."""
        mask_nT = output["completion_mask"]
        if "tool_mask" in output:
            mask_nT = mask_nT * output["tool_mask"]
        importance_nT = output.get("importance_sampling_ratio")
        rollout = Rollout(
            self._rewards,
            prompts_of(len(self._rewards.rewards_NM), self.num_generations),
            self._gathered(mask_nT),
            importance_NT=None if importance_nT is None else self._gathered(importance_nT.expand(mask_nT.shape)),
        )
        answered = None
        if bool(self._rewards.scored_NM.all()):  # TRL counts a reward that is missing as 0, and the methods do not
            scores_N = weighted_scores(rollout, self.scalarizer.weights)
            answered = Answered(scores_N, self.accelerator.gather(output["advantages"]).cpu())
        estimate = TrlEstimate(rollout, self.scale_rewards, answered)
        advantages_NT = self.scalarizer.advantages(rollout, estimate).float()
        unknown_nT = torch.full(mask_nT.shape, torch.nan)
        descent = self._plan_descent(rollout, estimate)
        num_tokens = self._metrics["train"]["completions/mean_length"][-1]
        self._window = Window(rollout, num_tokens, advantages_NT, unknown_nT, unknown_nT.clone(), descent)
        first = self.accelerator.process_index * len(mask_nT)
        mine_nT = advantages_NT[first : first + len(mask_nT), : mask_nT.shape[1]]
        output["advantages"] = of_completions(mine_nT, mask_nT.cpu()).to(mask_nT.device)
        output[_ROW] = torch.arange(len(mask_nT), device=mask_nT.device)
        self._keep_samples(advantages_NT.sum(1) / rollout.mask_NT.sum(1).clamp(min=1))

    def _plan_descent(self, rollout: Rollout, estimate: TrlEstimate) -> Descent | None:
        """What the update of these completions does with the objectives' gradients."""
        plan = make_plan(
            self._taken,
            self.scalarizer,
            rollout,
            step=self.state.global_step // self._steps_per_batch + 1,
            every=0,
            cross_fitted=self._cross_fitted,
            trained_N=rollout.mask_NT.any(1),
        )
        if plan is None:
            return None
        return Descent(plan, self.scalarizer.objective_advantages(rollout, estimate).float())

    def _keep_samples(self, advantages_N: Tensor) -> None:
        """Keep a few completions, and put the advantages into TRL's own table of them."""
        num = len(advantages_N)
        logged = self._logs["advantages"]
        for _ in range(min(num, len(logged))):
            logged.pop()
        logged.extend(advantages_N.tolist())
        if self._recorder is not None:
            prompts, responses = (
                [said(each) for each in list(self._logs[key])[-num:]] for key in ("prompt", "completion")
            )
            step = self.state.global_step + 1
            self._recorder.keep(step, prompts, responses, self._rewards.to_columns(), split="train")

    # -- its update ---------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._rows_S, self._old_ST = inputs.get(_ROW), inputs.get("old_per_token_logps")
        try:
            if self._rows_S is not None and self._window is not None and self._window.descent is not None:
                return self._descend(self._window, self._window.descent, model, inputs)
            loss: Tensor = super()._compute_loss(model, inputs)
            return loss
        finally:
            self._rows_S = self._old_ST = self._pass = None

    def _descend(self, window: Window, descent: Descent, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Go backward once for each objective, and at the last micro-batch make a step of that.

        Returns:
            TRL's loss, of which nothing is left to differentiate; the weighted one, where nothing is measured.
        """
        mask_ST = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).cpu()
        loss_of = super()._compute_loss

        def of_rewards(advantages_ST: Tensor) -> Tensor:
            advantages = of_completions(advantages_ST, mask_ST).to(self.accelerator.device)
            loss: Tensor = loss_of(model, inputs | {"advantages": advantages})
            return loss

        measures, is_last = descent.plan.measures, self.accelerator.sync_gradients
        rows_S = inputs[_ROW].cpu() + self.accelerator.process_index * len(window.log_probs_old_nT)
        # Gradients that are measured are averaged over the processes once, before the step.
        with self.accelerator.no_sync(model) if measures else contextlib.nullcontext():
            whole: Tensor = loss_of(model, inputs)
            with self._without_what_is_shared() as has_shared:
                losses = descent.losses(rows_S, mask_ST.shape[1], of_rewards)
                shared = whole - loss_of(model, inputs) if has_shared else None
            if not measures:
                return descent.combined(losses, shared, is_last=is_last)
            descent.take((each for each in self.model.parameters() if each.requires_grad), losses, shared)
        if is_last:
            descent.step(self.optimizer.param_groups[0]["lr"])
        return whole.detach().requires_grad_()

    @contextlib.contextmanager
    def _without_what_is_shared(self) -> Iterator[bool]:
        """TRL's loss of the rewards alone, and no word in its log; says whether KL, entropy or routing are left out."""
        shared = {"beta": 0.0, "_entropy_bonus_enabled": False, "aux_loss_enabled": False}
        silent: dict[str, Any] = {"_metrics": {mode: defaultdict(list) for mode in self._metrics}}
        kept = {name: getattr(self, name) for name in (*shared, *silent)}
        for name, value in (shared | silent).items():
            setattr(self, name, value)
        try:
            yield any(kept[name] for name in shared)
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **options: Any) -> Any:
        if self._pass is not None:  # all losses of a micro-batch are of one pass
            return self._pass
        computed = super()._get_per_token_logps_and_entropies(*arguments, **options)
        if self._rows_S is not None and self._window is not None:
            self._pass = computed
            old_ST = None if self._old_ST is None else self._old_ST.cpu()
            self._window.saw(self._rows_S.cpu(), computed[0].detach().float().cpu(), old_ST)
        return computed

    def _log_probs_now(self) -> Tensor:
        """Of this process's completions under the policy as it is, (n, T): one more pass, in TRL's micro-batches."""
        assert self._window is not None
        log_probs_nT = torch.zeros_like(self._window.log_probs_new_nT)
        forward = super()._get_per_token_logps_and_entropies
        parameters = inspect.signature(forward).parameters
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            for inputs in self._buffered_inputs:
                ids, mask = (
                    torch.cat([inputs[f"prompt_{key}"], inputs[f"completion_{key}"]], dim=1) for key in ("ids", "mask")
                )
                pictures = {key: value for key, value in inputs.items() if key in parameters}
                computed = forward(self.model, ids, mask, log_probs_nT.shape[1], **pictures)
                log_probs_nT[inputs[_ROW].cpu()] = computed[0].float().cpu()
        return log_probs_nT

    @property
    def _steps_per_batch(self) -> int:
        """Optimizer steps on a batch of completions."""
        steps: int = self.args.steps_per_generation * self.num_iterations // self.args.gradient_accumulation_steps
        return steps

    def after_step(self) -> None:
        """Show the method what the update did, where the batch has been trained on to its end."""
        window = self._window
        if window is not None and self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
            self._observe(window)
        self._step_metrics[key_of.STEP_SECONDS] = time.perf_counter() - self._began

    def _observe(self, window: Window) -> None:
        if self._source == "post_update":
            window.log_probs_new_nT = self._log_probs_now()
        window.descended()
        learnt = {} if window.descent is None else self._learn_from(window.descent.plan)
        old_NT, new_NT = self._gathered(window.log_probs_old_nT), self._gathered(window.log_probs_new_nT)
        update = Update(window.rollout, window.advantages_NT, old_NT, new_NT, self._policy_loss)
        learnt |= diagnostics(update) if self._source != "none" else {}
        learnt |= self.scalarizer.observe_update(update)
        learnt |= key_of.of_weights(self.scalarizer.weights)
        self._step_metrics |= window.metrics(old_NT) | learnt
        for key, value in learnt.items():
            self._metrics["train"][key].append(value)
        self._window = None

    def _learn_from(self, plan: GradientPlan) -> dict[str, float]:
        """Take over what an update by the objectives' gradients made of the method."""
        self.scalarizer.aggregator = plan.aggregator
        self._cross_fitted = plan.cross_fitted or self._cross_fitted
        return gradient_metrics(plan)

    def _gathered(self, values_nT: Tensor) -> Tensor:
        """The rows of all processes, on the CPU; tokens that one of them has not are 0."""
        values_nT = values_nT.to(self.accelerator.device).contiguous()
        padded: Tensor = self.accelerator.pad_across_processes(values_nT, dim=1)
        gathered: Tensor = self.accelerator.gather(padded)
        return gathered.cpu()

    # -- between the steps --------------------------------------------------------------------------------------------

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """TRL's evaluation; the method and the trace hear of it, of all evaluation sets together."""
        if self._validation is not None:  # TRL calls this for each set in turn
            found: dict[str, float] = super().evaluate(*arguments, **options)
            return found
        self._validation = Validation()
        try:
            found = super().evaluate(*arguments, **options)
            if self.is_in_train:
                self._step_metrics |= self._validation.metrics() | key_of.of_weights(self.scalarizer.weights)
                self.scalarizer.observe_validation(self.state.global_step, self._validation.means())
        finally:
            self._validation = None
        return found

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, *rest: Any, **options: Any
    ) -> Any:
        """TRL's training, recorded in ``output_dir``; resumed with the method's state.

        Raises:
            CtwaError: ``output_dir`` holds a run and none is resumed, or the checkpoint has no state of this method.
        """
        if trial is not None:
            raise CtwaError("a search of hyperparameters would put several runs into one folder: train them one by one")
        checkpoint = resume_from_checkpoint or None
        if checkpoint is True:
            checkpoint = get_last_checkpoint(self.args.output_dir)
            if checkpoint is None:
                raise CtwaError(f"{self.args.output_dir} has no checkpoint: leave resume_from_checkpoint out")
        self._resume_after = None
        if self.args.should_save:
            RunFolder(self.args.output_dir).refuse_if_taken(resume=checkpoint is not None, how_to_resume=HOW_TO_RESUME)
        if checkpoint is not None:
            self._resume_after, self._step_metrics = load_state(
                Path(str(checkpoint)), self._parts, steps_per_batch=self._steps_per_batch
            )
        try:
            return super().train(checkpoint, trial, *rest, **options)
        except BaseException as error:  # Ctrl-C as well
            self.write_record()
            if self._recorder is not None:
                self._recorder.failed(error, how_to_go_on(self.args.output_dir))
            raise
        finally:
            if self._recorder is not None:
                self._recorder.close()
                self._recorder = None

    def begin_recording(self) -> None:
        """Make or continue the folder of the run, in one process of all."""
        if self.args.should_save:
            self._recorder = begin(
                self.args,
                self.scalarizer,
                self._taken,
                self.model.config._name_or_path,
                num_steps=self.state.max_steps,
                resume_after=self._resume_after,
            )

    def before_step(self) -> None:
        """The step before is over, and this one begins: with completions, where new ones are due."""
        self.write_record()
        self._began = time.perf_counter()

    def write_record(self) -> None:
        """Write what is known of the last step."""
        if self._recorder is not None and self._step_metrics:
            self._recorder.step(self.state.global_step, self._step_metrics)
        self._step_metrics = {}

    def end_recording(self) -> None:
        """Write the last record, and sum the run up."""
        self.write_record()
        if self._recorder is not None:
            with contextlib.suppress(CtwaError):  # a run without a single result has no summary
                write_summary(self._recorder.run)

    def note_logs(self, logs: Mapping[str, float]) -> None:
        """Take from TRL's log what is of the step alone."""
        for key, name in {"grad_norm": key_of.GRADIENT_NORM, "learning_rate": "actor/lr"}.items():
            if key in logs:
                self._step_metrics[name] = logs[key]

    @property
    def _parts(self) -> dict[str, Stateful]:
        """What a checkpoint keeps, by name."""
        cross_fitted = {} if self._cross_fitted is None else {"cross_fitted": self._cross_fitted}
        return {"scalarizer": self.scalarizer, **cross_fitted}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Before TRL's own files: what it takes for a checkpoint has the state then.
        if self.args.should_save:
            step = self.state.global_step
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
            save_state(folder, self._parts, step=step, metrics=self._step_metrics)
        super()._save_checkpoint(model, trial)
