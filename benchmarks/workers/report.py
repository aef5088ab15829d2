"""What a worker tells: CPU time of a call, and the growth of the process since it was ready."""

import resource
import sys
import time
from collections.abc import Callable


def serve(action: Callable[[], object]) -> None:
    """Print "ready", then for every line "go" run the action and print CPU ms and extra MB."""
    base = peak_mb()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip() != "go":
            break
        start = time.process_time()
        action()
        elapsed = 1e3 * (time.process_time() - start)
        sys.stdout.write(f"{elapsed:.3f} {peak_mb() - base:.1f}\n")
        sys.stdout.flush()


def peak_mb() -> float:
    """Largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
