"""`python -m onceedit_ray` is the command `onceedit`."""

import sys

from onceedit_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
