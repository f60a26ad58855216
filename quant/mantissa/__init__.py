"""The study of how few bits a trained network's weights need (docs/mantissa.md).

Zhang, Z. et al.: Striking the Mantissa: How Few Bits are Enough for Accurate DNN Inference?
Frontiers of Computer Science, doi:10.1007/s11704-025-51210-5.
"""
