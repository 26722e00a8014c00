"""What helps this task: the K-shot decides, diversity corrects (Algorithms 1 and 2)."""
