"""The suite `sft`: the loss part of a step of TRL's SFTTrainer, with crossent under TRL and without.

`__main__` measures and records it, with `python -m benchmarks.sft`. This folder imports only `benchmarks.common`.
"""
