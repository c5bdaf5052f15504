"""Making a set of pictures that training reads, and checking one."""
