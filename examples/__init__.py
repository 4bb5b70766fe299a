"""Programs that show Headgate at work. They are not part of it and never imported by it."""
