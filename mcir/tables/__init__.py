"""The tables of the papers as data, the commands that reproduce them, and the reports that they write."""
