"""verl's side of a run that samples: workers, rollout replicas and data loaders, and the operations of a step by name.

verl's trainer sets all of it up. Its own step and loop are not used: ``ctwa.engine.train`` and ``ctwa.engine.loop`` say
what happens in which order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.dataset.rl_dataset import collate_fn
from verl.utils.transferqueue_utils import KVBatchMeta
from verl.workers.utils.padding import response_from_nested

from ctwa.engine.checks.turns import agent_loops, tool_schemas
from ctwa.engine.verl.columns import MINI_BATCH_ROWS, SAMPLED_COLUMNS
from ctwa.engine.verl.registry import TRANSFORMERS_ROLLOUT, install
from ctwa.engine.verl.rollout.agent_loops import AgentLoops
from ctwa.engine.verl.rollout.batches import BatchGeneration
from ctwa.engine.verl.rollout.prompts import PromptTokens
from ctwa.engine.verl.rollout.transformers_rollout import start_server
from ctwa.engine.verl.rows import deal_rows, mini_batches
from ctwa.engine.verl.transfer import QueuedRows
from ctwa.engine.verl.workers import MultiObjectiveWorker, check_folder, num_data_ranks
from ctwa.errors import CtwaError
from ctwa.objectives.curriculum import Curriculum, CurriculumSettings, source_named


class Session(PPOTrainerSync):
    """verl's synchronous trainer, started; the replicas are asleep.

    Args:
        config: the resolved config.
        curriculum: which prompts come next.
        poll_interval: seconds between looks for completions.
        wait_for_queue: for the transfer queue, whose processes start meanwhile.
    """

    def __init__(
        self,
        config: DictConfig,
        curriculum: CurriculumSettings,
        *,
        poll_interval: float,
        wait_for_queue: Callable[[], None],
    ) -> None:
        install()
        servers = self._start_servers(config)
        self._is_awake = False
        self._begin(config, poll_interval)
        self.init()
        check_folder(self.actor_rollout_wg, Path(config.ctwa.run))
        self.curriculum = self._build_curriculum(curriculum)
        self.reward_loop_manager = None  # ends its workers: the driver sees to the rewards
        wait_for_queue()
        self.generation = self._build_generation(servers, poll_interval)

    # -- set-up -------------------------------------------------------------------------------------------------------

    def _begin(self, config: DictConfig, poll_interval: float) -> None:
        """What is a run's own, and no process's."""
        PPOTrainerSync.__init__(self, config)
        # verl polls every 2 s, so each step would wait for whole multiples of it.
        self.replay_buffer.poll_interval = poll_interval
        self.prev_step_profile = self.curr_step_profile = self.next_step_profile = False
        self._epoch: Iterator[dict[str, Any]] | None = None

    def begin_again(
        self, config: DictConfig, curriculum: CurriculumSettings, origin: Path, *, poll_interval: float
    ) -> None:
        """Begin another run on the processes that there are: another's model, optimizer and rows are forgotten.

        Args:
            config: of the new run, which asks the same of the processes.
            curriculum: which prompts come next.
            origin: where :meth:`save_policy` has written a policy that had made no step.
            poll_interval: seconds between looks for completions.
        """
        self.sleep()
        self._begin(config, poll_interval)
        self._init_dataloader()
        self.curriculum = self._build_curriculum(curriculum)
        self.actor_rollout_wg.load_checkpoint(str(origin / "actor"))

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            self.role_worker_mapping[role] = ray.remote(MultiObjectiveWorker)

    def on_init_end(self) -> None:
        """The replicas get their weights when they wake."""

    @staticmethod
    def _start_servers(config: DictConfig) -> list[Any]:
        """The transformers servers, where they complete the prompts: they need no training workers to be there."""
        rollout = config.actor_rollout_ref.rollout
        if rollout.name != TRANSFORMERS_ROLLOUT:
            return []
        num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
        model, device = config.actor_rollout_ref.model, config.trainer.device
        return [start_server(rank, rollout, model, device) for rank in range(num_ranks)]

    def _build_generation(self, servers: list[Any], poll_interval: float) -> BatchGeneration | AgentLoops:
        """What completes prompts: batches on our servers, or verl's agent loops for every other rollout."""
        if servers:
            return BatchGeneration(self.config, self.tokenizer, servers, poll_interval)
        loops = Path(self.config.ctwa.run) / "agent_loops.yaml"
        OmegaConf.save(OmegaConf.create(agent_loops(self.config)), loops)
        self.config.actor_rollout_ref.rollout.agent.agent_loop_config_path = str(loops)
        manager = AgentLoopManagerTQ.create(
            config=self.config, llm_client=self.get_llm_client(), teacher_client=None, reward_loop_worker_handles=None
        )
        tokens = PromptTokens(self.config, self.tokenizer, tool_schemas(self.config))
        return AgentLoops(manager, tokens, poll_interval)

    def _build_curriculum(self, settings: CurriculumSettings) -> Curriculum | None:
        """What draws the prompts in the place of verl's data loader; verl 0.9.1 has no seam for a sampler."""
        if not settings.is_on:
            return None
        data, rows = self.config.data, self.train_dataset
        seed = self.config.ctwa.seed if data.seed is None else data.seed
        sources_R = (
            [source_named(name) for name in rows.dataframe["data_source"]] if settings.sources else [""] * len(rows)
        )
        return Curriculum(settings, sources_R, seed=seed, shuffle=data.shuffle)

    def end_tokens(self) -> set[int | None]:
        """The tokens that end a completion; a chat model may have several."""
        generation = omega_conf_to_dataclass(self.config.actor_rollout_ref.model).generation_config
        ends = [] if generation is None else generation.eos_token_id
        return {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    @property
    def num_steps(self) -> int:
        """Of the run: as configured, and no more than the epochs have."""
        epochs: int = self.steps_per_epoch * self.config.trainer.total_epochs
        return min(self.total_training_steps, epochs)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def wake(self, step: int) -> None:
        """Let the replicas have the weights after a step, and their memory, if they are not awake with them."""
        if not self._is_awake:
            self.checkpoint_manager.update_weights(step)
        self._is_awake = True

    def sleep(self) -> None:
        """Let the replicas make room: what is to be trained or saved needs their memory."""
        if self._is_awake:
            self.on_sample_end()
        self._is_awake = False

    def next_prompts(self) -> list[dict[str, Any]]:
        """The columns of the next step's prompts, in the chunks of the data loader; a curriculum's are one."""
        num_prompts = self.config.data.train_batch_size
        if self.curriculum is not None:
            return [collate_fn([self.train_dataset[row] for row in self.curriculum.draw(num_prompts)])]
        chunk = self.config.data.get("gen_batch_size", None) or num_prompts
        return [self._next_chunk() for _ in range(num_prompts // chunk)]

    def _next_chunk(self) -> dict[str, Any]:
        if self._epoch is None:
            self._epoch = iter(self.train_dataloader)
        columns = next(self._epoch, None)
        if columns is None:
            self._epoch = iter(self.train_dataloader)
            columns = next(self._epoch)
        return columns

    def complete(
        self,
        chunks: Sequence[Mapping[str, Any]],
        split: Literal["train", "val"],
        *,
        step: int,
        arrived: Callable[[list[str]], None],
    ) -> tuple[KVBatchMeta, dict[str, Any]]:
        """Complete prompts; returns when their completions are in the transfer queue.

        Args:
            chunks: the columns of the prompts, with those of their names and seeds.
            split: how to sample, and the partition of the queue.
            step: for which.
            arrived: is told at every look which completions have come since, by their keys, a prompt's all at once. It
                may end the run by a CtwaError, which is raised once the rest has come.

        Returns:
            The completions, in the order in which they came; and verl's metrics.
        """
        batches = [tu.get_tensordict(dict(chunk)) for chunk in chunks]
        batch = batches[0] if len(batches) == 1 else tu.concat_tensordict(batches)
        tu.assign_non_tensor_data(batch, "global_steps", step)
        if split == "val":
            tu.assign_non_tensor_data(batch, "validate", True)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": step}] * len(batch)
        tq.kv_batch_put(keys=list(batch["uid"]), partition_id=split, tags=tags)
        looks = self.generation.complete(batch)
        try:
            for keys in looks:
                arrived(keys)
        except CtwaError:
            for _ in looks:  # nothing is to be under way where the step before is saved
                pass
            raise
        sampled, metrics = self.replay_buffer.sample(global_steps=step, partition_id=split, batch_size=len(batch))
        return sampled, metrics

    # -- a step -------------------------------------------------------------------------------------------------------

    @contextmanager
    def profiled(self, step: int) -> Iterator[None]:
        """Let verl's profiler record a step, if it is one of ``global_profiler.steps``."""
        self.global_steps = step
        self.curr_step_profile = step in (self.config.global_profiler.steps or ())
        self._start_profiling()
        yield
        self._stop_profiling()
        self.curr_step_profile = False

    def deal(self, batch: KVBatchMeta, rows: QueuedRows) -> KVBatchMeta:
        """Deal whole mini-batches of prompts, in the step's order, out to the ranks: see ``mini_batches``."""
        actor = self.config.actor_rollout_ref
        num_ranks = num_data_ranks(self.actor_rollout_wg)
        size, order = mini_batches(
            rows.bounds.diff().tolist(),
            num_completions=actor.actor.ppo_mini_batch_size * actor.rollout.n,
            num_ranks=num_ranks,
        )
        tags = dict(zip(batch.keys, batch.tags, strict=True))
        batch.keys[:], batch.tags[:] = rows.keys, [tags[key] for key in rows.keys]
        batch = upsample_batch_to_divisible_size(batch, len(order), self.tokenizer.eos_token_id)
        seq_lens = [batch.tags[row]["seq_len"] for row in order]
        rows_of_rank = deal_rows(seq_lens, rows_per_minibatch=size, num_ranks=num_ranks)
        batch.reorder([order[place] for places in rows_of_rank for place in places])
        batch.extra_info[MINI_BATCH_ROWS] = size
        batch.extra_info["temperature"] = actor.rollout.temperature
        batch.fields = list(SAMPLED_COLUMNS)
        return batch

    def old_log_probs(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Take the log-probs of the policy before the update, or the rollout's where the config trusts them."""
        told = batch.extra_info
        batch = self._compute_old_log_prob(batch, metrics)
        batch.extra_info = {**told, **batch.extra_info}  # verl forgets it where it computes them
        return batch

    def reference_log_probs(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Take the log-probs of the reference policy."""
        return self._compute_ref_log_prob(batch, metrics)

    def previous_log_probs(self, batch: KVBatchMeta, rows: QueuedRows) -> torch.Tensor:
        """(N, T): the log-probs of the weights that were kept before the last update; one forward pass."""
        batch.extra_info.update(
            calculate_entropy=False,
            compute_loss=False,
            no_lora_adapter=False,  # which the reference's pass leaves on
            temperature=self.config.actor_rollout_ref.rollout.temperature,
        )
        self.actor_rollout_wg.swap_weights()
        self.actor_rollout_wg.compute_log_prob(batch)
        self.actor_rollout_wg.swap_weights()
        data = rows.read("log_probs", "response_mask")
        return rows.joined(response_from_nested(data["log_probs"], data["response_mask"]))

    def update(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Update the policy on the batch's advantages, mini-batch by mini-batch."""
        return self._update_actor(batch, metrics)

    def with_metrics(
        self, batch: KVBatchMeta, metrics: Mapping[str, Any], seconds: dict[str, float], *, step: int
    ) -> dict[str, Any]:
        """Metrics of a step, and beside them verl's: lengths, throughput, what became of the advantages.

        Those that are there stay: verl counts the tokens of tools among a response's.
        """
        of_verl = dict(metrics)
        epoch = (step - 1) // self.steps_per_epoch
        self._compute_metrics(batch, of_verl, seconds, global_steps=step, epoch=epoch)
        return {**of_verl, **metrics}

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def kept(self, step: int) -> Callable[[Path], None]:
        """Writes the policy of a step into a checkpoint's folder, with the place in the data where that step ended."""
        return partial(self.save, step=step, position=copy.deepcopy(self._prompts_to_come.state_dict()))

    def save(self, folder: Path, *, step: int, position: Mapping[str, Any] | None = None) -> None:
        """Write the policy, its optimizer and the data's position into a checkpoint's folder."""
        self.save_policy(folder, step=step)
        self.save_place(folder / "data.pt", position)
        self.checkpoint_callback.on_save(trainer=self, global_step=step, checkpoint_dir=str(folder), async_save=False)

    def save_policy(self, folder: Path, *, step: int) -> None:
        """Write the policy and its optimizer."""
        self.sleep()
        self.actor_rollout_wg.save_checkpoint(str(folder / "actor"), None, step, max_ckpt_to_keep=None)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote."""
        self.sleep()
        self.actor_rollout_wg.load_checkpoint(str(folder / "actor"))
        if (folder / "data.pt").exists():  # of a run without prompts to train on there is none
            self.load_place(folder / "data.pt")

    def save_place(self, path: Path, position: Mapping[str, Any] | None = None) -> None:
        """Write which prompts come next; or came next at another moment."""
        torch.save(self._prompts_to_come.state_dict() if position is None else position, path)

    def load_place(self, path: Path) -> None:
        """Read what :meth:`save_place` wrote.

        Raises:
            CtwaError: it is of a run with another curriculum.
        """
        state = torch.load(path, weights_only=False)
        if self.curriculum is None and "curriculum" in state:
            raise CtwaError(f"{path} is of a run with a ctwa.curriculum: resume it with the same one")
        self._prompts_to_come.load_state_dict(state)

    @property
    def _prompts_to_come(self) -> Any:
        """The curriculum, or else the data loader; both have a state."""
        return self.train_dataloader if self.curriculum is None else self.curriculum
