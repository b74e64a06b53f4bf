"""Cold nouns, one file each: plain SQL on a connection that the store lends."""
