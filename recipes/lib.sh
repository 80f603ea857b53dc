# shellcheck shell=bash
# What the recipes share. The user's own settings come last and win.
for switch in LORA RESUME; do
    if [[ "${!switch:-0}" != [01] ]]; then
        echo "error: $switch=${!switch} is neither 0 nor 1: write 1 for yes, or 0." >&2
        exit 2
    fi
done
RECIPE="$(basename "$0" .sh)"
if [[ "${LORA:-0}" == 1 && "$RECIPE" == instructions* ]]; then
    RECIPE+=-lora # beside the run of whole weights, not in its folder
fi
TESTBED="${TESTBED:-runs/testbed-D}"
# The objective that is hard to have and those that are easy; a recipe of another task sets its own.
HARD=accuracy
EASY=(conciseness clarity)
EASY_TARGETS=(0.9 0.9) # of the easy ones, for the method that has to know them
SHARES=(20 35 50 65 80) # of accuracy in the preference, in hundredths: what a front is drawn of

# Reinforcement learning by the method of the command line: sets METHOD_SETTINGS.
choose_method() { # step at which a schedule ends, then the recipe's arguments
    local schedule_end="$1" method="${2:-}" estimator="${ESTIMATOR:-grpo}" clipping=on
    need_ctwa
    if [[ -z "$method" || "$method" == *=* || "$method" == -* ]]; then
        echo "error: name a method first, or static: $0 METHOD [KEY=VALUE]... These are the methods:" >&2
        ctwa methods >&2
        exit 2
    fi
    if [[ "$method" == *,* ]]; then
        echo "error: a recipe is of one method; several by one command: ctwa train task=... method=$method" >&2
        exit 2
    fi
    if [[ "$estimator" == reinforce ]]; then
        clipping=off # as in the paper
    fi
    run_settings "$RECIPE-$method"
    METHOD_SETTINGS=("${RUN_SETTINGS[@]}" estimator="$estimator" clipping="$clipping")
    case "$method" in # the methods that cannot know what they need
        lagrangian)
            METHOD_SETTINGS+=(ctwa.method.objective="$HARD"
                "ctwa.method.targets={${EASY[0]}:${EASY_TARGETS[0]},${EASY[1]}:${EASY_TARGETS[1]}}")
            ;;
        cgpo)
            METHOD_SETTINGS+=("ctwa.method.constraints={$HARD:1}")
            ;;
        schedule)
            METHOD_SETTINGS+=("ctwa.method.points=[{step:0,weights:{$HARD:0.5,${EASY[0]}:0.25,${EASY[1]}:0.25}},\
{step:$schedule_end,weights:{$HARD:0.333,${EASY[0]}:0.333,${EASY[1]}:0.334}}]")
            ;;
        torchjd)
            METHOD_SETTINGS+=(ctwa.method.weighting=AlignedMTL)
            ;;
        static)
            method=linear
            METHOD_SETTINGS+=(
                "ctwa.objectives={$HARD:{weight:0.375},${EASY[0]}:{weight:0.3125},${EASY[1]}:{weight:0.3125}}")
            ;;
    esac
    METHOD_SETTINGS+=(method="$method")
}

need_ctwa() {
    if ! command -v ctwa >/dev/null; then
        echo "error: the command ctwa is not found: activate its environment first (source .venv/bin/activate)." >&2
        exit 127
    fi
}

run_folder() { # name of the run
    echo "runs/$1-s${SEED:-0}"
}

run_settings() { # name of the run: sets RUN_SETTINGS
    local resume=false
    if [[ "${RESUME:-0}" == 1 ]]; then
        resume=true
    fi
    need_ctwa
    RUN_SETTINGS=(ctwa.run="$(run_folder "$1")" ctwa.seed="${SEED:-0}" ctwa.resume="$resume")
}

# Preference alignment on the testbed. A recipe of several runs gives each of them a name.
prefer() { # name of the run, settings of the recipe, then the user's
    run_settings "preference-$1"
    shift
    make_pairs pairs 0
    ctwa prefer task=testbed "${RUN_SETTINGS[@]}" engine=cpu ctwa.task_dir="$TESTBED" "$@"
}

caid() { # name of the run, settings of the recipe, then the user's
    run_settings "preference-$1"
    shift
    ctwa caid task=testbed "${RUN_SETTINGS[@]}" engine=cpu ctwa.task_dir="$TESTBED" "$@"
}

preference_rl() { # settings of the recipe, then the user's: reinforcement learning on the two objectives of the pairs
    run_settings "preference-$RECIPE"
    ctwa train task=testbed "${RUN_SETTINGS[@]}" engine=cpu ctwa.task_dir="$TESTBED" \
        ctwa.objectives.accuracy.weight=0.5 ctwa.objectives.conciseness.weight=0.5 ctwa.objectives.clarity.weight=0 \
        actor_rollout_ref.actor.use_kl_loss=true "$@"
}

pku() { # settings of the recipe, then the user's: LoRA on PKU-SafeRLHF
    run_settings "preference-$RECIPE"
    local data="${DATA:-PKU-Alignment/PKU-SafeRLHF-10K}"
    ctwa prefer task=custom "${RUN_SETTINGS[@]}" engine="${ENGINE:-gpu}" \
        "+ctwa.objectives.helpful={data:'$data',format:safe-rlhf,label:better_response_id,weight:0.5}" \
        "+ctwa.objectives.harmless={data:'$data',format:safe-rlhf,label:safer_response_id,weight:0.5}" \
        actor_rollout_ref.model.path="${MODEL:-Qwen/Qwen3-4B-Instruct-2507}" \
        actor_rollout_ref.model.lora_rank=8 actor_rollout_ref.model.target_modules=all-linear "$@"
}

front() { # settings of the recipe, then the user's: a run for each of five preferences, and a report with their front
    local share settings=() runs=()
    for share in "${SHARES[@]}"; do
        settings=(ctwa.objectives.accuracy.weight="0.$share" ctwa.objectives.conciseness.weight="0.$((100 - share))")
        prefer "$RECIPE-p0.$share" "${settings[@]}" ctwa.reference_cache="$TESTBED/pairs/reference" "$@"
        runs+=("$(run_folder "preference-$RECIPE-p0.$share")")
    done
    if ! is_dry_run "$@"; then
        ctwa report "${runs[@]}" --out "$(run_folder "preference-$RECIPE").html"
    fi
}

single_objective() { # objective, then the user's settings: DPO on its labels alone
    local objective="$1" weights=(ctwa.objectives.accuracy.weight=0 ctwa.objectives.conciseness.weight=0)
    shift
    weights+=("ctwa.objectives.$objective.weight=1")
    prefer "$RECIPE-$objective" method=linear "${weights[@]}" ctwa.reference_cache="$TESTBED/pairs/reference" "$@"
}

make_pairs() { # folder in the testbed's, seed: preference pairs, where there are none yet
    local folder="$TESTBED/$1" preset
    if [[ -e "$folder/test.parquet" ]]; then
        return
    fi
    if [[ ! -f "$TESTBED/testbed.json" ]]; then
        echo "error: no testbed in $TESTBED: make one (ctwa testbed make --out $TESTBED), or set TESTBED." >&2
        exit 2
    fi
    echo "pairs: making $folder, which later runs read, and a dry run looks at" >&2
    preset="$(sed -n 's/.*"preset": "\(.*\)".*/\1/p' "$TESTBED/testbed.json")"
    ctwa testbed pairs --preset "$preset" --seed "$2" --out "$folder"
}

# The task `instructions`: what all its recipes share. Sets TASK_SETTINGS.
instructions() { # settings of a command for the sizes of a GPU
    local data="${DATA:-runs/instructions}" default=models/smollm2-135m engine="${ENGINE:-cpu}"
    need_ctwa
    if [[ "$engine" == cpu && -n "${GPUS:-}" ]]; then
        echo "error: GPUS=$GPUS is not for the engine cpu: leave it out, or set ENGINE=gpu (of one GPU: one_gpu)." >&2
        exit 2
    fi
    if [[ "$engine" != cpu ]]; then
        MODEL="${MODEL:-Qwen/Qwen3-0.6B}" MAX_TOKENS="${MAX_TOKENS:-256}"
    fi
    local model="${MODEL:-$default}"
    if [[ "$model" == "$default" && ! -e "$model/config.json" ]]; then
        echo "error: no model in $model: make it (scripts/smollm2.sh), or set MODEL to a folder or a name on the hub." >&2
        exit 2
    fi
    if [[ ! -e "$data/instructions.json" ]]; then
        ctwa instructions make --out "$data" >&2
    fi
    TASK_SETTINGS=(task=instructions engine="$engine" ctwa.task_dir="$data" actor_rollout_ref.model.path="$model")
    if [[ "$engine" != cpu ]]; then
        TASK_SETTINGS+=(trainer.n_gpus_per_node="${GPUS:-1}" "$@")
    fi
    if [[ "${LORA:-0}" == 1 ]]; then
        TASK_SETTINGS+=(actor_rollout_ref.model.lora_rank=16 actor_rollout_ref.model.lora_alpha=32
            actor_rollout_ref.model.target_modules=all-linear actor_rollout_ref.actor.optim.lr=2.0e-4)
    fi
}

instructions_pairs() { # the user's settings: pairs of the model's own completions, where there are none yet
    local data="${DATA:-runs/instructions}" model="${MODEL:-models/smollm2-135m}" part prompts
    for part in train validation; do
        if [[ -e "$data/pairs/$part.parquet" ]]; then
            continue
        fi
        if is_dry_run "$@"; then
            echo "error: no pairs in $data/pairs/$part.parquet, and a dry run samples none: run it without --dry-run first." >&2
            exit 2
        fi
        prompts="$data/train.parquet" limit="${PAIR_PROMPTS:-128}"
        if [[ "$part" == validation ]]; then
            prompts="$data/held_out.parquet" limit=$((limit / 4))
        fi
        mkdir -p "$data/pairs"
        cat >"$data/pairs/$part.yaml" <<END
models: {base: '${model//\'/\'\'}'}
generation:
  data: '${prompts//\'/\'\'}'
  limit: $limit
  num_samples: 4
  temperature: 0.7
  max_tokens: ${MAX_TOKENS:-96}
  batch_size: 32
  template_kwargs: {enable_thinking: false} # of Qwen3; other templates do not look at it
  objectives:
    constraints: {reward_fn: "ctwa.instructions.rewards:constraints"}
    brevity: {reward_fn: "ctwa.instructions.rewards:brevity", kwargs: {budget: ${MAX_TOKENS:-96}}}
    well_formed: {reward_fn: "ctwa.instructions.rewards:well_formed"}
END
        echo "pairs: completing $limit prompts four times for $data/pairs/$part.parquet, which later runs read" >&2
        ctwa eval "$data/pairs/$part.yaml" --out "$data/pairs/$part-samples" >&2
        ctwa pairs "$data/pairs/$part-samples" --out "$data/pairs/$part.parquet" >&2
    done
}

is_dry_run() { # the user's settings
    [[ " $* " == *" --dry-run "* ]]
}
