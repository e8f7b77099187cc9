"""Between the processes: how a worker asks the mirror, and how open files reach it."""
