import subprocess
import sys


def test_importing_the_room_loads_nothing_heavy():
    heavy = "torch transformers peft trl datasets pyarrow numpy"
    code = f"import sys, rocket_hub.discovery; print(*set({heavy.split()!r}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
