"""The tiling problem given to SCIP: to a proven integer optimum, or as the paper relaxes it."""
