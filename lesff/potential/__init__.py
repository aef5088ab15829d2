"""One energy and all that follows from it: assembly, properties, responses, checks."""
