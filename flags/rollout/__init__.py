"""How the share of users is moved: evidence, verdict, move, in three pure steps, and one writer."""
