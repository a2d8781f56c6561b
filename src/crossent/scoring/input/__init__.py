"""Input: from what people have (arrays, frames, files) to batches of rows that can be scored.

Labels become codes here, columns get their roles, files become batches of bounded size. Every wrong input is refused
in this folder. It imports nothing else of `crossent.scoring` but `parts`; the state, the command line and the adapters
import it.
"""
