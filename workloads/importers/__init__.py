"""Networks from files that other programs write."""
