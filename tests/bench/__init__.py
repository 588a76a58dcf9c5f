"""What chimera must reach, measured side by side: ``python -m tests.bench`` (docs/performance.md)."""
