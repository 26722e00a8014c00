"""A small Hugging Face Hub in a folder, on loopback: for tests, for the demo, and for work without a network.

`LocalHub(store)` serves a folder; `connect("demo" | FOLDER | URL)` points the Hub libraries of this process to a hub.
"""

from rocket_hub.localhub.connect import Connection, cache_folder, connect, local_place
from rocket_hub.localhub.importing import import_tree
from rocket_hub.localhub.messages import User
from rocket_hub.localhub.server import Fault, LocalHub

__all__ = ["Connection", "Fault", "LocalHub", "User", "cache_folder", "connect", "import_tree", "local_place"]
