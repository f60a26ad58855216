"""The command line: arguments become calls of the API, and results are shown."""
