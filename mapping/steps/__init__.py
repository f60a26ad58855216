"""The movement rules step by step: what each tile of a nest moves, as arrays of boxes.

`tiles` says which box of a tensor is resident when, and what of it is new. `price` says what that
takes and moves in bits, bursts included; `array` what a tile costs in the PE array. The simulator,
its data and the models' bursts read it. `mapping.closed` says the same in closed form; neither
reads the other.
"""
