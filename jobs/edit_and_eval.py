"""Edit once, then evaluate every target.

`ray job submit --working-dir . -- python jobs/edit_and_eval.py --config FILE`
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import ray

from onceedit_ray.cluster.job import edit_and_evaluate
from onceedit_ray.config import load_config
from onceedit_ray.errors import OnceEditError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a run file, such as configs/quickstart.yaml")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path(os.environ.get("ONCEEDIT_RESULTS", "results")),
        help="where results/<run> goes (default: $ONCEEDIT_RESULTS, else ./results)",
    )
    options = parser.parse_args()
    try:
        config = load_config(options.config)
        ray.init(log_to_driver=True)
        command = f"ray job submit --working-dir . -- python jobs/edit_and_eval.py --config {options.config}"
        outcome = edit_and_evaluate(config, options.results, command, lambda line: print(line, flush=True))
    except OnceEditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{outcome.table}\n\nresults: {outcome.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
