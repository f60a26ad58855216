"""BitQ's search (Eq. 1): a format for every stored tensor, and a mapping for every layer.

`space` says what is chosen, `costs` what mappings cost in every format, `losses` what formats cost
in accuracy; `problem` joins them, `allocation` solves it to a proven optimum, `refinement` has the
simulator price what is chosen until the choice is stable.
"""
