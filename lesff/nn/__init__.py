"""Building blocks of architectures, one topic per module."""
