"""Show: a score as text, as pictures and as a page.

`text` is for terminals, notebooks and JSON, with the tables of `measures` and `labels`, `report` for a page of
`sections`, `answers`, `pictures` and `curves`; `words` writes numbers
and sentences. These modules read the values of a score (`parts.ScoreValues`) and compute no statistic of it. They
import `parts` and `crossent.html`; results, comparisons and the commands import them.
"""
