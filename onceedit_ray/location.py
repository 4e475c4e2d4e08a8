"""Defines what a URI such as `s3://bucket/folder` means in each place where a path is given.

    data files (edits, prompts)   are read there, through the filesystems of pyarrow
    results                       are written into a local folder and copied there (`results`)
    everything else               needs a local folder or file, `ONCEEDIT_HOME` too: a URI is refused

Plain paths and `~` are local; `s3://…`, `gs://…`, `hdfs://…` and `file://…` are resolved by pyarrow. This module does
not know what is stored there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, PlainValidator

from onceedit_ray.errors import ConfigError

if TYPE_CHECKING:
    from pyarrow import fs

_USER = re.compile(r"://[^/@]*@")
LEFT_BEHIND = "a copy that Ray or git made of a folder lacks the files that .gitignore names"
"""What a message says about a file that may be missing for this reason."""
_MOUNT = "is a URI, and a local path is needed; mount it and give its path"


def is_uri(given: str | Path) -> bool:
    """Whether `given` is a URI and not a path."""
    return "://" in str(given)


def without_secrets(given: str | Path) -> str:
    """`given` as a message may show it: a URI may contain a key, its secret, and the settings of a server."""
    text = str(given)
    return _USER.sub("://", text).partition("?")[0] if is_uri(text) else text


def refusal(given: str | Path) -> str | None:
    """Why `given` is refused where a local path is needed; None if it is one."""
    return f"{without_secrets(given)} {_MOUNT}" if is_uri(given) else None


def local_path(given: str) -> Path:
    """The path that a command's argument gives; raises `ConfigError` for a URI."""
    if reason := refusal(given):
        raise ConfigError(reason)
    return Path(given)


def data_path(given: str) -> Path | str:
    """The file to read that a command's argument gives: a `Path`, or the text of a URI."""
    return given if is_uri(given) else Path(given)


def left_behind(given: str | Path) -> str:
    """Why a relative path may lead nowhere, as the end of a message; "" for a path that leads to one place only."""
    if is_uri(given) or Path(given).expanduser().is_absolute():
        return ""
    return f"; {LEFT_BEHIND}: give its absolute path"


def locate(path: str | Path) -> tuple[fs.FileSystem, str]:
    """The filesystem that holds `path`, and the path in that filesystem's own spelling.

    Raises what pyarrow raises for an unknown or unreachable scheme (`OSError` or `pyarrow.ArrowInvalid`).
    """
    from pyarrow import fs  # not above: every command imports this module, and few need pyarrow

    if isinstance(path, str) and is_uri(path):
        filesystem, inside = fs.FileSystem.from_uri(path)
        return filesystem, inside
    return fs.LocalFileSystem(), str(Path(path).expanduser().absolute())


def _data_file(given: Any) -> Path | str:
    if not isinstance(given, str | Path):
        raise ValueError("input should be a path or a URI")
    return data_path(given) if isinstance(given, str) else given


def _local_file(given: Any) -> Any:
    if isinstance(given, str) and (reason := refusal(given)):
        raise ValueError(reason)
    return given


DataFile = Annotated[Path | str, PlainValidator(_data_file)]
"""A setting that names a file to read: a `Path`, or the text of a URI."""
LocalFile = Annotated[Path, BeforeValidator(_local_file)]
"""A setting that names a local file or folder."""
