"""Studies of what formats cost a network: accuracy, sensitivities, comparisons."""
