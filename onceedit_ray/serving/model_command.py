"""`onceedit models add` and `onceedit models remove`: the targets of a system that serves."""

from __future__ import annotations

import argparse
import os
from typing import Any

from onceedit_ray.living.served_api import SERVER, call, part

KEY_VARIABLE = "ONCEEDIT_ADMIN_KEY"


def add_target_actions(actions: Any) -> None:
    """Add both to the actions of `onceedit models`."""
    adding = actions.add_parser("add", help="add a target that a server of OpenAI's API has, to a running system")
    adding.add_argument("name", metavar="NAME", help="of the target")
    adding.add_argument("--url", required=True, help="of the server's API, such as http://127.0.0.1:8001/v1")
    adding.add_argument("--model", default="auto", help="the server's name of the model (default: its only one)")
    adding.add_argument(
        "--key-env", default="", metavar="NAME", help="the variable with the server's key, if `serve` allows it"
    )
    adding.set_defaults(run=_add)
    removing = actions.add_parser("remove", help="remove such a target from a running system")
    removing.add_argument("name", metavar="NAME")
    removing.set_defaults(run=_remove)
    for action in (adding, removing):
        action.add_argument("--server", default=SERVER, help=f"of the running system (default: {SERVER})")
        action.add_argument("--key", default=os.environ.get(KEY_VARIABLE, ""), help=f"also ${KEY_VARIABLE}")


def _add(options: argparse.Namespace) -> None:
    target = {"name": options.name, "url": options.url, "model": options.model, "key_env": options.key_env}
    added = call(options.server, options.key, "POST", "/models", target, "--server")
    print(f"{options.name} answers now: {added['about']}")
    print("it answers until the system ends; `onceedit serve` begins with the targets of its run file and options")


def _remove(options: argparse.Namespace) -> None:
    call(options.server, options.key, "DELETE", f"/models/{part(options.name)}", None, "--server")
    print(f"{options.name} is removed; its answers under way go on to their end")
