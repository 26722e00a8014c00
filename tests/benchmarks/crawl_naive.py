"""The loop that one would write first; `python -m tests.benchmarks.crawl_naive BASE SAMPLE`, with HF_ENDPOINT set."""

import json
import sys
import time

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftConfig


def main() -> None:
    """List all adapters, read the configurations of a sample one by one, and print the seconds."""
    base, sample = sys.argv[1], int(sys.argv[2])
    started = time.perf_counter()
    listed = list(HfApi().list_models(filter=f"base_model:adapter:{base}"))
    listing = time.perf_counter() - started
    started, loaded = time.perf_counter(), 0
    for info in listed[:: max(1, len(listed) // sample)][:sample]:
        try:
            hf_hub_download(info.id, "adapter_config.json")
            loaded += PeftConfig.from_pretrained(info.id).peft_type is not None
        except (HfHubHTTPError, OSError, ValueError, KeyError, TypeError):
            pass
    print(json.dumps({"listed": len(listed), "listing": listing, "loop": time.perf_counter() - started,
                      "sample": min(sample, len(listed)), "loaded": loaded}))  # fmt: skip


if __name__ == "__main__":
    main()
