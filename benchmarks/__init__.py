"""How fast, how soon and at what cost: measured on one machine, in one run, against Postfix's own ceiling."""
