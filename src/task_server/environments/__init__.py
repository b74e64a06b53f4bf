"""What a task asks to be installed, and the lock that answers it: text in, text out, no I/O.

`requirements` reads what users write, `names` reads the callable they name, `lock` holds what
was resolved, `uv` and `uv_output` speak with the installer. Server and worker both use them.
"""
