"""The embedded default: an invented town with tiny models, an oracle teacher and critics. No download, no key, exact grades."""
