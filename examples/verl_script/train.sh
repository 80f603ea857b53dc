#!/usr/bin/env bash
# A verl script of one's own, with three changes: what it starts, which parts are objectives, and a method.
#
#   MODEL=FOLDER TRAIN=train.parquet VAL=val.parquet examples/verl_script/train.sh method=linear ctwa.run=runs/first --dry-run
#
#   DEVICE   cuda (default) or cpu
#   OUT      where the translated settings go  (default: ctwa.yaml; one that is there is used as it is)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="${OUT:-ctwa.yaml}"

settings=(
    algorithm.adv_estimator=grpo
    data.train_files="$TRAIN"
    data.val_files="$VAL"
    data.train_batch_size=8
    data.max_prompt_length=512
    data.max_response_length=512
    actor_rollout_ref.model.path="$MODEL"
    actor_rollout_ref.actor.optim.lr=1e-6
    actor_rollout_ref.actor.ppo_mini_batch_size=8
    actor_rollout_ref.actor.use_dynamic_bsz=True
    actor_rollout_ref.rollout.n=4
    reward.custom_reward_function.path="$here/score.py"
    reward.custom_reward_function.name=compute_score
    trainer.device="${DEVICE:-cuda}"
    trainer.n_gpus_per_node=1
    trainer.total_epochs=1
    trainer.test_freq=5
)
if [[ "${DEVICE:-cuda}" == cuda ]]; then
    settings+=(actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.tensor_model_parallel_size=1)
fi

# Before: python3 -m verl.trainer.main_ppo "${settings[@]}"
if [[ -e "$out" ]]; then
    echo "$out is there and is used as it is; move it away to translate the settings anew"
else
    ctwa from-verl --out "$out" "${settings[@]}" \
        'algorithm.gdpo_reward_keys=[accuracy,brevity]' 'algorithm.gdpo_reward_weights=[1.0,0.5]'
fi
exec ctwa train "$out" "$@"
