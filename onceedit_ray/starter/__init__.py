"""The run file, the edits and the Serve file that `onceedit init` writes into a folder, and where run files are found.

The package holds them, so a fresh installation needs no checkout.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from onceedit_ray.errors import ConfigError
from onceedit_ray.files import replacing

RUN_FILE = "quickstart.yaml"
FILES = (RUN_FILE, "edits.jsonl", "serve.yaml")
PLACES = (Path(RUN_FILE), Path("configs") / RUN_FILE)
"""Where a command looks for its run file if none is named: a folder that `onceedit init` filled, then a checkout."""


def write_starter(folder: Path) -> list[Path]:
    """Write the starter's files into `folder`, which is created; files that exist are kept.

    Returns the paths of the new files. Raises `ConfigError` if the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if not (folder / name).exists():
                with replacing(folder / name) as path:
                    path.write_bytes((files(__name__) / name).read_bytes())
                written.append(folder / name)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; name another folder") from None
    return written


def packaged_run_file() -> Path:
    """The quickstart's run file inside the installed package."""
    return Path(str(files(__name__) / RUN_FILE))


def default_run_file() -> Path:
    """The run file of a command that names none; raises `ConfigError` where there is none."""
    for place in PLACES:
        if place.is_file():
            return place
    raise ConfigError(f"no run file here: `onceedit init` writes {RUN_FILE}, or name one with --config FILE")
