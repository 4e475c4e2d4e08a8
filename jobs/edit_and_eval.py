"""`onceedit_ray.cluster.edit_and_eval` as a script: edit once and evaluate every target, or compare methods.

`ray job submit --working-dir . -- python jobs/edit_and_eval.py --config FILE`
"""

import sys

from onceedit_ray.cluster.edit_and_eval import main

if __name__ == "__main__":
    sys.exit(main())
