"""BitQ's search (Eq. 1): a format for every stored tensor, and a mapping for every layer.

`space` says what is chosen, `costs` what mappings cost in every format; `problem` joins that with
what formats cost in accuracy, `allocation` solves it to a proven optimum, `refinement` has the
simulator price what is chosen until the choice is stable, `search` compares what the simulator's
and the models' prices lead to.
"""
