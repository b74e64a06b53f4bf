"""The server: HTTP in front, the store behind, rules between."""
