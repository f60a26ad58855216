"""The movement rules in closed form: one formula over an algebra, and tables for it.

`movement` is the formula. Its values may be whole numbers, fractions, arrays over all tile sizes at
once, or products of a solver's variables. `exact` fills it with sums over the tiles that there are,
`paper` with those of BitQ's Eq. 2-6. `mapping.steps` says the same step by step; neither reads the
other.
"""
