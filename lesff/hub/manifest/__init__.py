"""The manifest: its entries, names, signed updates and citations."""
