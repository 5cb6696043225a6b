"""What an application's trace is told of its requests."""
