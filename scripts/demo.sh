#!/usr/bin/env bash
# The quickstart: fetch the real weights, then edit once and ask every model, as a job on a Ray of its own.
# Usage: scripts/demo.sh [CONFIG]   (`make demo` creates the environment first)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=${1:-configs/quickstart.yaml}
python=$PWD/.venv/bin/python
[ -x "$python" ] || { echo "no environment at .venv: run 'make venv' first" >&2; exit 2; }
[ -f "$config" ] || { echo "no run file at $config: see configs/ for examples" >&2; exit 2; }

# The job runs in a copy of this folder, so what outlives it is named from here.
export ONCEEDIT_RESULTS=${ONCEEDIT_RESULTS:-$PWD/results}
export RAY_USAGE_STATS_ENABLED=0

echo "== 1/3 fetch and verify the weights"
.venv/bin/onceedit models fetch smollm2-135m gemma-3-270m qwen2.5-coder-0.5b

echo "== 2/3 edit and evaluate on a local Ray"
"$python" scripts/local_ray.py -- \
    ray job submit --working-dir . -- python jobs/edit_and_eval.py --config "$config"

echo "== 3/3 ask those that are not the plug-in's model in chat, before and after"
.venv/bin/onceedit demo --config "$config"
