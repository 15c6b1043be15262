"""What the laws and the optima say together: the verdict, its reasons, and which runs would decide."""
