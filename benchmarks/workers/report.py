"""What a worker tells: CPU time of a call, and the growth of the process since it was ready."""

import sys
import time
from collections.abc import Callable

import memory


def serve(action: Callable[[], object]) -> None:
    """Print "ready", then for every line "go" run the action and print CPU ms and extra MB."""
    idle = memory.mark()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip() != "go":
            break
        start = time.process_time()
        action()
        elapsed = 1e3 * (time.process_time() - start)
        sys.stdout.write(f"{elapsed:.3f} {memory.peak() - idle:.1f}\n")
        sys.stdout.flush()
