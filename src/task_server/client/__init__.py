"""The Python client, and the two parts of it that workers use too: `requests` and `aio`."""
