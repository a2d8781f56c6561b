"""The proof on a GPU, in six minutes: `make prove-gpu`, or `python -m benchmarks.gpu.prove`.

`stages` lists the stages and their limits. `conductor` runs each in processes of its own, `child` is such a process,
`lab` runs the items of a stage. `machine`, `correct`, `ceilings`, `logits`, `heads` and `hot` are the stages; `truth`
holds results against the bounds of the conformance suite, `phases` times the parts of a head, `compiled` reads what
the compiler made. `tables` shows the results, and `beside_model` what was predicted beside them.
"""
