"""The suite `rows`: losses of reinforcement learning on a linear layer, with `python -m benchmarks --suite rows`.

`cases` holds the losses and the heads. `contenders` says who computes them, and the mean loss and the products that
bound them. `errors` compares with float64. `report` prints the records. TRL takes part where it is installed.
"""
