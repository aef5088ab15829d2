"""``python -m lesff.cli``, where the ``lesff`` command is not on the path."""

from lesff.cli.main import main

main()
