"""Bulk prediction: structures from anywhere, in chunks, on any executor, into a table."""
