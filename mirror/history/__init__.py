"""What was pulled, why it went as it did, and what that cost and saved: kept over restarts."""
