"""What attackers do; one file for each family."""
