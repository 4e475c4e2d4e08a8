#!/usr/bin/env bash
# The quickstart: fetch the real weights, then edit once and ask every model, as a job on a Ray of its own.
# Usage: scripts/demo.sh [--verbose] [CONFIG]   (`make demo` creates the environment first)
# The job's own words, Ray's among them, go to a log, which is shown if the job fails; --verbose shows them as they come.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

verbose=()
if [ "${1:-}" = --verbose ]; then
    verbose=(--verbose)
    shift
fi
config=${1:-configs/quickstart.yaml}
python=$PWD/.venv/bin/python
[ -x "$python" ] || { echo "no environment at .venv: run 'make venv' first" >&2; exit 2; }
[ -f "$config" ] || { echo "no run file at $config: see configs/ for examples" >&2; exit 2; }

# The job runs in a copy of this folder, so what outlives it is named from here.
export ONCEEDIT_RESULTS=${ONCEEDIT_RESULTS:-$PWD/results}
export RAY_USAGE_STATS_ENABLED=0

run_job() {
    "$python" scripts/local_ray.py -- \
        ray job submit --working-dir . -- python jobs/edit_and_eval.py --config "$config"
}

echo "== 1/3 fetch and verify the weights"
.venv/bin/onceedit models fetch smollm2-135m gemma-3-270m qwen2.5-coder-0.5b

if [ ${#verbose[@]} -gt 0 ]; then
    echo "== 2/3 edit and evaluate on a local Ray"
    run_job
else
    mkdir -p "$ONCEEDIT_RESULTS"
    log=$ONCEEDIT_RESULTS/demo.log
    echo "== 2/3 edit and evaluate on a local Ray, about two minutes (log: $log)"
    run_job >"$log" 2>&1 || { code=$?; cat "$log"; exit "$code"; }
    # What follows the progress: the tables of scores, and where the results are.
    awk 'BEGIN { RS = "" }
        /Tailing logs| pid=|\[[0-9:]+[],<]/ { tables = ""; next }
        /^results: / { split($0, lines, "\n"); print tables lines[1]; exit }
        { tables = tables $0 "\n\n" }' "$log"
fi

echo "== 3/3 ask those that are not the plug-in's model in chat, before and after"
.venv/bin/onceedit demo --config "$config" ${verbose[@]+"${verbose[@]}"}
