"""How fast, how soon and at what cost: in one run on one machine, beside Postfix's ceiling and other readers."""
