"""Compile every kernel that the Triton backend can launch for several GPUs, on a machine that need not have one.

`calls` makes the calls of the backend, and `brief` chooses few of them. `chips` says what the GPUs have and stands in
for a driver, `launches` lets the launcher compile, `build` compiles what the calls launch. `code` finds loops in
machine code, which `nvidia` and `amd` read; `facts` says what a kernel needs, `budgets` what it may need, `report`
prints both. `kept` keeps results outside the checkout. `python -m tools.gpu_build` runs it all.
"""
