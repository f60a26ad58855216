"""What holds for all tests."""

import gc

# Importing and exporting modules makes objects by the hundred thousand, which Python would search
# for garbage again and again: an eighth of the time of tests that export.
gc.set_threshold(50_000, 20, 20)
