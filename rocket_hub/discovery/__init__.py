"""What is out there on the Hub: adapters that fit a base model, instruction data, and what their licences allow."""

from rocket_hub.discovery.adapters import discover_adapters, plan_adapters
from rocket_hub.discovery.hub.download import download
from rocket_hub.discovery.instructions import discover_datasets, load_instructions

__all__ = ["discover_adapters", "discover_datasets", "download", "load_instructions", "plan_adapters"]
