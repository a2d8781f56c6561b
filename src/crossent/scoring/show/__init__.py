"""Show: a score as text, as pictures and as a page.

These modules read the numbers of a result and never compute a statistic. They import `parts` and `crossent.html`;
`Score`, the comparison and the command line call them.
"""
