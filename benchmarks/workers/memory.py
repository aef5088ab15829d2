"""Peak memory of this process since a mark (Linux)."""

from pathlib import Path

_PROC = Path("/proc/self")


def mark() -> float:
    """Forget the peak so far; the memory held now, in MB."""
    (_PROC / "clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """Highest memory since the mark, in MB."""
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = (_PROC / "status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1024
