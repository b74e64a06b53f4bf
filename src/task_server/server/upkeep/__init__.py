"""What the server does by itself, one loop a file."""
