"""What goes in and out, with its limits."""
