"""The commands of the command line: each parses options, calls the API and prints."""
