"""What travels over HTTP: one Struct a shape, by audience. docs/reference/wire.md has the prose."""
