"""The commands: a module each (`score`, `compare`, `lm`), put together in `commands`.

`options` has the options that they share, `reading` makes states of files, `actions` reports, `memory` limits.
They import everything else of `crossent.scoring` but the adapters. `crossent.cli` alone imports them.
"""
