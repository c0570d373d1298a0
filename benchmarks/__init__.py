"""Ours and a peer side by side, in one process and one run: ratios only. `python -m benchmarks.NAME --help`."""
