"""The commands `crossent score`, `compare` and `lm`: options in `commands`, what they do in `actions`.

They import everything else of `crossent.scoring` but the adapters. `crossent.cli` alone imports them.
"""
