"""``python -m lesff``."""

from lesff.cli import main

main()
