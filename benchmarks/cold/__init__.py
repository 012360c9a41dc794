"""What `cold_start` measures with."""
