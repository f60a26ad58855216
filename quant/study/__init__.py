"""What formats cost a network: accuracy, sensitivities, comparisons."""
