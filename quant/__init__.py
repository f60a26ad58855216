"""BFP formats, and the torch front end above them."""
