"""One worker process of Moorline's script pool. Nothing here needs more than Python's standard library."""
