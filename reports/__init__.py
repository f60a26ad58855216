"""Reports: terminal tables, CSV files and figures of what was simulated."""
