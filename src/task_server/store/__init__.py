"""Where tasks are kept: one contract of the hot verbs, one implementation a database."""
