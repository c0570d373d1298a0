"""The embedded default: an invented town, tiny models, an oracle teacher and critics. No download, no key, exact."""
