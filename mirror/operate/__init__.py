"""What an operator's commands do: ask a running mirror, and show what it says."""
