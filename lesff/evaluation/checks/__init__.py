"""The checks of the suite, one topic a file."""
