"""How fast crossent is beside torch and beside the memory it runs on: `python -m benchmarks`."""
