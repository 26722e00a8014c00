"""Enters `connect(...)` in a fresh process and prints what it found as JSON; imports no Hub library unless told to."""

import json
import os
import sys

from rocket_hub.errors import RocketError
from rocket_hub.localhub import cache_folder, connect

NAMES = ("HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "HF_HUB_DISABLE_XET", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "NO_PROXY")


def environment():
    return {name: os.environ.get(name) for name in NAMES}


def once(hub):
    """Connect and look around."""
    before = environment()
    with connect(hub) as connection:
        result = {
            "url": connection.url,
            "name": connection.name,
            "cache": str(connection.cache),
            "recipes": dict(connection.recipes),
            "inside": environment(),
            "cache folder": str(cache_folder()),
        }
    return result | {"before": before, "after": environment(), "modules": "huggingface_hub" in sys.modules}


def nested(hub):
    """Connect twice at once."""
    with connect(hub) as one, connect(hub) as two:
        return [one.url, two.url, str(one.cache), str(two.cache)]


def again(hub):
    """Connect, import the client, push, leave, and connect again: the client cannot be pointed elsewhere by then."""
    with connect(hub) as connection:
        from huggingface_hub import HfApi

        HfApi().create_repo("local/made")
        first = connection.url
    with connect(hub) as connection:
        return [first, connection.url, HfApi().repo_exists("local/made"), str(cache_folder())]


def late(hub):
    """Import the client first."""
    from huggingface_hub import constants

    return constants.ENDPOINT, once(hub)


def main():
    mode = {"once": once, "nested": nested, "again": again, "late": late}[sys.argv[1]]
    try:
        return {"result": mode(*sys.argv[2:] or [None])}
    except RocketError as error:
        return {"error": type(error).__name__, "message": str(error)}


print(json.dumps(main()))
