"""The `openwork` command: parsing and printing only. A command's module imports what is heavy when it runs."""
