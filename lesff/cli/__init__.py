"""Command line: parses and calls the API."""

from lesff.cli.main import main

__all__ = ["main"]
