"""The worker: it pulls tasks over outbound HTTP and runs them in processes of their own."""
