"""Experiments with networks and real images: what each command of bfpsim measures, as data.

`classifier` is a trained module with the images that judge it; `formats`, `mantissa` and
`inference` measure one; `accuracy` and `answer` set the search's choices against real images;
`bitq` are the experiments of the BitQ paper. `reports` shows what they return.
"""
