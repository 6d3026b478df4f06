"""What this computer can do, and which student to take."""
