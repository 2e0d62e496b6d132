"""What each chapter runs, and what it shows besides figures."""
