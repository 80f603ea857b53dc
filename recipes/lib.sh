# shellcheck shell=bash
# What the recipes share. A recipe names its method; everything else it runs with is here, in ctwa/config, or the user's
# own, which comes last and wins.
RECIPE="$(basename "$0" .sh)"
TESTBED="${TESTBED:-runs/testbed-D}"
SHARES=(20 35 50 65 80) # of accuracy in the preference, in hundredths: what a front is drawn of

testbed() { # settings of the recipe, then the user's
    estimator
    run_settings "testbed-$RECIPE"
    exec ctwa train task=testbed "${RUN_SETTINGS[@]}" engine=cpu "${ESTIMATOR_SETTINGS[@]}" ctwa.task_dir="$TESTBED" "$@"
}

math500() { # settings of the recipe, then the user's
    estimator
    run_settings "math500-$RECIPE"
    exec ctwa train task=math500 "${RUN_SETTINGS[@]}" engine="${ENGINE:-gpu}" "${ESTIMATOR_SETTINGS[@]}" \
        actor_rollout_ref.model.path="${MODEL:-Qwen/Qwen2.5-1.5B}" ctwa.task_dir="${DATA:-data/math500}" "$@"
}

estimator() { # sets ESTIMATOR_SETTINGS
    local name="${ESTIMATOR:-grpo}" clipping=on
    if [[ "$name" == reinforce ]]; then
        clipping=off # as in the paper
    fi
    ESTIMATOR_SETTINGS=(estimator="$name" clipping="$clipping")
}

run_folder() { # name of the run
    echo "runs/$1-s${SEED:-0}"
}

run_settings() { # name of the run: sets RUN_SETTINGS
    local resume=false
    if [[ "${RESUME:-0}" == 1 ]]; then
        resume=true
    fi
    if ! command -v ctwa >/dev/null; then
        echo "error: the command ctwa is not found: activate its environment first (source .venv/bin/activate)." >&2
        exit 127
    fi
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
    preset="$(sed -n 's/.*"preset": "\(.*\)".*/\1/p' "$TESTBED/testbed.json")"
    ctwa testbed pairs --preset "$preset" --seed "$2" --out "$folder"
}

is_dry_run() { # the user's settings
    [[ " $* " == *" --dry-run "* ]]
}
