"""From a name to checked files: manifest, cache, sources, mirror, publishing."""
