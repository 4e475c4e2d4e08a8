"""Edit once, then evaluate every target; or, given a grid file (docs/compare-methods.md), compare methods.

`ray job submit --working-dir . -- python -m onceedit_ray.cluster.edit_and_eval --config FILE`, where the package is
installed on the cluster, or from a checkout with `python jobs/edit_and_eval.py`. Without a cluster it starts a Ray on
this machine.
"""

from __future__ import annotations

import argparse
import os
import sys

import ray
from ray.exceptions import RayActorError

from onceedit_ray.cluster.grid import on_ray
from onceedit_ray.cluster.job import run_job
from onceedit_ray.cluster.results_folder import job_results, place
from onceedit_ray.comparison.grid_config import load_grid
from onceedit_ray.comparison.run_grid import compare
from onceedit_ray.config import is_grid, load_config
from onceedit_ray.errors import ConfigError, OnceEditError
from onceedit_ray.location import local_path
from onceedit_ray.progress import ProgressDisplay


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=local_path, required=True, help="a run file, such as configs/quickstart.yaml")
    parser.add_argument(
        "--results",
        default=os.environ.get("ONCEEDIT_RESULTS", "results"),
        help="where <run>/ goes: a folder, in a job relative to $ONCEEDIT_HOME, or a URI such as s3://bucket/results "
        "(default: $ONCEEDIT_RESULTS, else results)",
    )
    parser.add_argument("--scale", help="of a grid file: one of its scales, such as 'small'")
    progress = ProgressDisplay(sys.stdout)
    try:
        options = parser.parse_args()
        command = f"ray job submit --working-dir . -- python jobs/edit_and_eval.py --config {options.config}"
        results = job_results(options.results)
        if is_grid(options.config):
            grid = load_grid(options.config, options.scale)
            scale = f" --scale {options.scale}" if options.scale else ""
            code = compare(grid, results, command + scale, on_ray, progress)
            print(place(results))
            return code
        if options.scale:
            raise ConfigError(f"{options.config} is a run file and has no scales; leave --scale out")
        config = load_config(options.config)
        ray.init(log_to_driver=True)
        outcome = run_job(config, results, command, progress)
    except (OnceEditError, RayActorError) as error:
        progress.close()
        print(f"error: {error if isinstance(error, OnceEditError) else lost(error)}", file=sys.stderr)
        return 2
    print(f"\n{outcome.table}\n\n{place(results, config.name)}")
    return 0


def lost(error: RayActorError) -> str:
    """One line about a process that died: what Ray says of it first, and what to do."""
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"a process of this job has died, perhaps for want of memory ({said}); start the job again"


if __name__ == "__main__":
    sys.exit(main())
