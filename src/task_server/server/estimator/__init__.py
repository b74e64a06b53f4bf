"""The child process that learns how long calls take and says how long others will.

numpy and the decoding of arguments live in that process alone. `messages` is what it and the server
say to each other, `process` is the server's end of it; nothing else of here is the server's.
"""
